"""What the benchmark of the engine gives to do: counts, refusals, and the reference by hand. No clock is read."""

from __future__ import annotations

import pytest

from fedkd.bench.engine.reference import BareLoop, flops_per_round, gemm_flops_per_s, new_model
from fedkd.bench.engine.work import CASES, Work, experiment_of
from fedkd.errors import ConfigError
from fedkd.federation.preflight import preflight
from fedkd.types import Flat, Scalar

SMALL: Flat = {"num_clients": 2, "data.max_train": 70, "data.max_test": 10}


def work(case: str, *, drops_last: bool = False, **more: Scalar) -> Work:
    experiment = experiment_of(case, {**SMALL, **more})
    return Work(experiment, preflight(experiment), drops_last)


@pytest.mark.parametrize("case", CASES)
def test_a_case_has_six_hundred_rows_a_client(case: str) -> None:
    experiment = experiment_of(case, {})
    found = Work(experiment, preflight(experiment))
    assert {len(index) for index in found.plan.partition.indices} == {600}
    assert found.num_clients == (20 if "mlp" in case else 10)
    assert found.rows_trained == found.num_clients * (600 if case.startswith("wa") else 1600)
    assert found.rows_predicted == (0 if case.startswith("wa") else found.num_clients * 1000)


def test_rows_are_counted_as_they_are_trained() -> None:
    assert work("wa_mlp").rows_trained == 2 * 35
    assert work("wa_mlp", drops_last=True).rows_trained == 2 * 30
    assert work("wa_mlp", **{"schedule.private_epochs": 3}).rows_trained == 3 * 70
    assert work("wa_mlp", **{"schedule.private_batch": 34}).rows_trained == 2 * 34  # a single row is left out
    both = work("wb_mlp", **{"proxy.max_samples": 40, "schedule.distil_epochs": 2})
    assert (both.rows_trained, both.rows_predicted) == (2 * (35 + 80), 2 * 40)


def test_operations_by_hand() -> None:
    """784-64-10: two for each weight forward, as many for its gradient, and two for each input of the second layer."""
    first, second = 784 * 64, 64 * 10
    forward, both = 2 * (first + second), 2 * (2 * first + 3 * second)
    assert flops_per_round(work("wa_mlp")) == 70 * both
    with_proxy = work("wb_mlp", **{"proxy.max_samples": 40})
    assert flops_per_round(with_proxy) == (70 + 80) * both + 80 * forward


def test_the_models_are_those_of_the_description() -> None:
    assert sum(p.numel() for p in new_model(work("wa_mlp")).parameters()) == 785 * 64 + 65 * 10
    convolutions, head = 10 * 26 + 20 * (250 + 1), (20 * 4 * 4 + 1) * 50 + 51 * 10
    assert sum(p.numel() for p in new_model(work("wb_cnn")).parameters()) == convolutions + head


@pytest.mark.parametrize("case", ["wa_mlp", "wb_mlp"])
def test_the_reference_is_positive(case: str) -> None:
    assert BareLoop(work(case)).cpu_s() > 0


def test_the_peak_is_a_rate_of_this_century() -> None:
    assert 1e8 < gemm_flops_per_s() < 1e16


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"device": "auto"}, "device is 'auto', expected 'cpu' .*processor time"),
        ({"engine.workers": 2}, "engine.workers is 2, expected 1"),
        ({"participation": 0.5}, "participation is 0.5"),
        ({"schedule.private_steps": 5}, "schedule.private_steps is 5, expected 0"),
        ({"preset": "edgefd"}, "proxy.name is 'contributed', expected 'none' or 'external'|method.order is 'joint'"),
        ({"scheduel.lr": 1.0}, "unknown key"),
    ],
)
def test_what_cannot_be_counted_is_refused(config: Flat, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        experiment_of("wa_mlp", config)


def test_a_joint_schedule_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method.order is 'joint'"):
        experiment_of("wb_mlp", {"method.order": "joint"})

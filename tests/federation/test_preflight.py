from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fedkd.compose import compose
from fedkd.errors import ConfigError, DataError, FedKDError
from fedkd.federation.preflight import device_of, preflight, server_model_builder
from fedkd.methods.base import ModelRole
from fedkd.methods.soft_targets import SoftTargets
from fedkd.models.build import build_model
from fedkd.models.config import ModelConfig
from fedkd.models.spec import ModelSpec
from tests.harness import experiment


def test_the_plan_of_the_default_experiment() -> None:
    plan = preflight(experiment())
    counts = plan.class_counts
    assert counts.shape == (10, 10)
    assert (np.diag(counts) == np.bincount(plan.dataset.train.labels)).all()
    assert counts.sum() == len(plan.dataset.train)
    assert plan.skew() == {"js_divergence": pytest.approx(1.0), "label_emd": pytest.approx(1.8, abs=0.02)}


def test_the_partition_follows_the_seed() -> None:
    iid = {"partition.name": "iid"}
    digests = [preflight(experiment("edgefd", {**iid, "seed": seed})).partition.digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_a_server_model_has_an_output_per_class() -> None:
    chosen = experiment("edgefd", {"model.hidden": 5})
    plan = preflight(chosen)
    model = server_model_builder(chosen, plan.dataset)()
    assert model(torch.zeros(1, *plan.dataset.input_shape)).shape == (1, 10)


WRONG: list[tuple[Mapping[str, Any], type[FedKDError], str]] = [
    ({"num_clients": 11}, ConfigError, "only 10 classes to deal out"),
    ({"model.num_outputs": 9}, ConfigError, r"set model.num_outputs = 10 \(or 0\)"),
    ({"model.options": '{"depth": 2}'}, ConfigError, r"model.options holds 'depth', which model 'mlp' does not know"),
    ({"model.options": "depth=2"}, ConfigError, r"model.options .* is 'depth=2', expected a JSON object"),
    (
        {"model.weights": "/nowhere.safetensors"},
        ConfigError,
        r"model.weights is .*, which is neither",
    ),
    ({"model.name": "tiny_lm"}, ConfigError, r"takes sequences of token numbers, but the data have float32 inputs"),
    ({"model.name": "seg_net"}, ConfigError, r"it is no model for the task 'classification'"),
    ({"model.name": "mlpp"}, ConfigError, "did you mean 'mlp'"),
    ({"method.name": "soft_target"}, ConfigError, "did you mean 'soft_targets'"),
    ({"scheme.name": "fd"}, ConfigError, "scheme 'fd' combines logits in space class"),
    ({"proxy.name": "none"}, ConfigError, "set proxy.name = 'contributed'"),
    ({"engine.min_good_replies": 11}, ConfigError, r"a round has only 10 clients .*; ask for 10 or fewer"),
    ({"engine.min_good_replies": 3, "participation": 0.2}, ConfigError, "a round has only 2 clients"),
    ({"data.name": "digitz"}, ConfigError, "did you mean 'digits'"),
    ({"data.name": "tests.doubles:digits_with_nan"}, DataError, "1 of 1437 inputs hold NaN .* index 17"),
    (
        {"data.name": "tests.doubles:digits_in_double"},
        DataError,
        r"train: inputs are float64, expected float32 .*; convert",
    ),
    ({"partition.name": "iid", "num_clients": 800}, DataError, "gets 1 private samples .* expected at least 2"),
]


@pytest.mark.parametrize(("changes", "kind", "words"), WRONG, ids=[str(sorted(changes)) for changes, _, _ in WRONG])
def test_what_is_wrong_is_told_before_anything_starts(
    changes: Mapping[str, Any], kind: type[FedKDError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        preflight(experiment("edgefd", changes))


def needing(monkeypatch: pytest.MonkeyPatch, *roles: ModelRole) -> None:
    monkeypatch.setattr(SoftTargets, "models", (ModelRole(name="student"), *roles))


TEACHER = ModelRole(name="teacher", frozen=True, group="teacher")


def test_a_teacher_that_a_method_needs_must_be_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    needing(monkeypatch, TEACHER)
    with pytest.raises(ConfigError, match=r"needs a trained teacher, but teacher.weights is empty; name a") as caught:
        preflight(experiment())
    assert caught.value.key == "teacher.weights"
    needing(monkeypatch, replace(TEACHER, optional=True))
    preflight(experiment())


def test_every_model_that_a_method_declares_is_built_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, TEACHER)
    spec = ModelSpec(input_shape=(1, 8, 8), num_outputs=10)
    file = tmp_path / "teacher.safetensors"
    save_file(build_model("mlp", ModelConfig(hidden=5), spec).state_dict(), file)
    preflight(experiment("edgefd", {"teacher.weights": str(file), "teacher.hidden": 5}))
    with pytest.raises(ConfigError, match=r"teacher.weights is .* a checkpoint of another architecture than 'mlp'"):
        preflight(experiment("edgefd", {"teacher.weights": str(file), "teacher.hidden": 6}))
    nine = replace(spec, num_outputs=9)
    save_file(build_model("mlp", ModelConfig(hidden=5), nine).state_dict(), file)
    wrong = {"teacher.weights": str(file), "teacher.hidden": 5, "teacher.num_outputs": 9}
    with pytest.raises(ConfigError, match=r"set teacher.num_outputs = 10 \(or 0\)"):
        preflight(experiment("edgefd", wrong))


def test_roles_that_the_client_trains_are_checked_and_copies_are_the_student(monkeypatch: pytest.MonkeyPatch) -> None:
    needing(monkeypatch, ModelRole(name="own", source="trained", group="teacher"))
    with pytest.raises(ConfigError, match=r"teacher.name is 'mlpp'"):
        preflight(experiment("edgefd", {"teacher.name": "mlpp"}))
    needing(monkeypatch, ModelRole(name="own", source="copy_of_student", group="teacher"))
    preflight(experiment("edgefd", {"teacher.name": "mlpp"}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigError, match="torch sees no GPU here"):
        preflight(experiment("edgefd", {"device": "cuda"}))


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_bf16_on_the_cpu_is_refused_with_the_reason(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cpu")
    with pytest.raises(ConfigError, match=r"engine.precision is 'bf16', but .* the CPU .* slower than float32"):
        preflight(experiment("edgefd", {"device": device, "engine.precision": "bf16"}))


def test_bf16_on_a_gpu_that_only_emulates_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = experiment("edgefd", {"engine.precision": "bf16"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "an old GPU")
    for is_supported in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: is_supported)  # noqa: B023
        if is_supported:
            assert device_of(chosen) == "cuda"
        else:
            with pytest.raises(ConfigError, match="which an old GPU does not compute in"):
                device_of(chosen)


def test_one_sample_is_enough_where_none_is_given_away() -> None:
    few = {"partition.name": "iid", "num_clients": 800}
    for rest in ({"proxy.keep_private": True}, {"preset": "local_only"}):
        assert len(preflight(experiment("edgefd", {**few, **rest})).partition.indices) == 800


def test_roles_of_the_data_are_checked_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match=r"roles\.targets is '0,10', but data set 'digits' has classes 0 to 9"):
        preflight(experiment(changes={"roles.targets": "0,10"}))
    with pytest.raises(DataError, match=r"client 2 gets no sample of the classes 0,1 \(roles\.targets\)"):
        preflight(experiment(changes={"roles.targets": "0,1"}))
    preflight(experiment(changes={"roles.targets": "0,1", "partition.name": "iid"}))


def test_what_a_method_shares_in_its_task_is_checked_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match=r"method\.top is 48, but the vocabulary has 48 tokens"):
        preflight(compose(experiment="methods/adaspec", overrides={"the test": {"method.top": 48}}))

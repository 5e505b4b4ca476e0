"""What every local trainer in the table must keep. A new method gets these tests by its line in METHODS."""

import dataclasses
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedkd.errors import ConfigError
from fedkd.experiment import Experiment
from fedkd.lookup import resolve
from fedkd.methods import METHODS
from fedkd.methods.soft_targets import SoftTargets
from fedkd.tasks import TASKS
from fedkd.tasks.calls import precision
from fedkd.testing import CHECKS, TOYS, check_local_trainer
from fedkd.testing.cases import Case, require_finite
from fedkd.testing.checks import Check, agrees_with_cpu, cpu_and_gpu_agree

pytestmark = [pytest.mark.usefixtures("one_torch_thread")]

PAIRS = [(name, task) for name, path in METHODS.items() for task in sorted(resolve(METHODS, path, what="method").tasks)]


ON_A_GPU = [pytest.param(check, marks=pytest.mark.gpu) if check is cpu_and_gpu_agree else check for check in CHECKS]


@pytest.mark.parametrize("check", ON_A_GPU, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("name", "task"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_contract(name: str, task: str, check: Check) -> None:
    check(Case.of(resolve(METHODS, name, what="method"), TOYS[task]))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(("name", "task"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_bf16_trains_finite_and_near(name: str, task: str, device: str) -> None:
    case = Case.of(resolve(METHODS, name, what="method"), TOYS[task]).among(device=device)
    knowledge, said, state = case.knowledge([0, 1]), [], {}
    for each in ("float32", "bf16"):
        with precision(each):
            state = case.fitted(knowledge)
            said.append(case.views(case.toy.context(), state, case.toy.rows_of_test()))
            case.legal(case.speak(state))
    require_finite(state, "state")
    assert {tensor.dtype for tensor in tensors_in(state) if tensor.is_floating_point()} <= {torch.float32}
    for wide, narrow in zip(*said, strict=True):
        assert narrow.dtype == np.float32
        assert not np.array_equal(narrow, wide)
        assert np.abs(narrow - wide).mean() < 0.05 * max(1.0, np.abs(wide).max())


def tensors_in(tree: Any) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    nodes = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return [tensor for node in nodes for tensor in tensors_in(node)]


@pytest.mark.parametrize("name", METHODS)
def test_config_round_trip_with_halved_numbers(name: str) -> None:
    defaults = dataclasses.asdict(Experiment.build({"method.name": name}).method.config)
    options = {f"method.{key}": value / 2 for key, value in defaults.items() if isinstance(value, float)}
    first = Experiment.build({"method.name": name, **options})
    assert Experiment.build(first.flat()).flat() == first.flat()


@pytest.mark.parametrize("name", METHODS)
def test_a_task_from_outside_that_it_does_not_declare_is_refused(name: str) -> None:
    for task in {*TASKS, "tests.contract.toys:Oddity"} - resolve(METHODS, name, what="method").tasks:
        keys = {"method.name": name, "task.name": task, "scheme.name": "none", "filter.name": "accept_all"}
        with pytest.raises(ConfigError, match=f"method '{name}' does not train task '{task}', only .*another method"):
            Experiment.build(keys).check()


class Forgetful(SoftTargets):
    tasks = frozenset({"classification"})

    def fit(self, ctx, state, knowledge):
        return state, {"loss": 0.0}


class Deaf(SoftTargets):
    tasks = frozenset({"classification"})

    def fit(self, ctx, state, knowledge):
        return super().fit(ctx, state, replace(knowledge, common=()))


class Reckless(SoftTargets):
    tasks = frozenset({"classification"})

    def init(self, ctx):
        return {"student": ctx.models.fresh(), "optimizer": {}}


class Greedy(SoftTargets):
    tasks = frozenset({"classification"})

    def fit(self, ctx, state, knowledge):
        return super().fit(replace(ctx, closing=False), state, knowledge)


class Careless(SoftTargets):
    tasks = frozenset({"classification"})

    def fit(self, ctx, state, knowledge):
        after, metrics = super().fit(ctx, state, knowledge)
        for name, tensor in state["student"].items():
            tensor.copy_(after["student"][name])
        return after, metrics


class Hoarder(SoftTargets):
    tasks = frozenset({"classification"})

    def fit(self, ctx, state, knowledge):
        after, metrics = super().fit(ctx, state, knowledge)
        return after | {"seen": {1, 2}}, metrics


class Misnamed(SoftTargets):
    tasks = frozenset({"classification"})
    metric = "precision"


class Chatty(SoftTargets):
    tasks = frozenset({"classification"})

    def share(self, ctx, state, rows):
        made = super().share(ctx, state, rows)
        return replace(made, rows=tuple(replace(each, values=each.values + torch.rand(1).item()) for each in made.rows))


class Fleeing(SoftTargets):
    tasks = frozenset({"classification"})

    def fit(self, ctx, state, knowledge):
        away = tuple(replace(each, values=-each.values) for each in knowledge.common)
        return super().fit(ctx, state, replace(knowledge, common=away))


class Pretending(SoftTargets):
    tasks = frozenset({"classification"})

    def fit(self, ctx, state, knowledge):
        after, metrics = super().fit(ctx, {**state}, replace(knowledge, common=()))
        return after | {"heard": sum(len(each) for each in knowledge.common)}, metrics


class Peeking(SoftTargets):
    tasks = frozenset({"classification"})

    def fit(self, ctx, state, knowledge):
        after, metrics = super().fit(ctx, state, knowledge)
        return after | {"mean": float(ctx.data.train.x.mean())}, metrics


@pytest.mark.parametrize(
    ("cls", "name", "said"),
    [
        (Forgetful, "it_learns", r"acc is 0\.\d+ after eight rounds"),
        (Deaf, "one_row_of_knowledge_is_heard", "one row of knowledge changed nothing"),
        (Reckless, "same_seed_same_result_whatever_torch_drew_before", "torch's global random state has moved"),
        (Greedy, "the_closing_message_trains_on_nothing_private", "changed what is predicted"),
        (Careless, "what_goes_in_is_not_touched", "a state that went in was changed"),
        (Misnamed, "its_score_is_what_the_metric_names", r"metrics\['precision'\] is not the score"),
        (Fleeing, "knowledge_pulls_towards_it", "away from what it heard"),
        (Pretending, "knowledge_pulls_towards_it", "away from what it heard"),
        (Peeking, "the_closing_message_trains_on_nothing_private", "looks at private data"),
        (Chatty, "same_seed_same_result_whatever_torch_drew_before", "random state has moved"),
    ],
)
def test_the_suite_finds_what_is_wrong(cls: type, name: str, said: str) -> None:
    (check,) = [each for each in CHECKS if each.__name__ == name]
    with pytest.raises(AssertionError, match=said):
        check(Case.of(cls, TOYS["classification"]))
    with pytest.raises(AssertionError, match=f"{cls.__name__}, task classification, "):
        check_local_trainer(cls)


def test_devices_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here with a second CPU, since few machines have a GPU; and with one that is a little off."""
    case = Case.of(SoftTargets, TOYS["classification"])
    agrees_with_cpu(case, "cpu")

    class Off(SoftTargets):
        def predict(self, ctx, state, samples, ids):
            (rows,) = super().predict(ctx, state, samples, ids)
            return (replace(rows, values=rows.values + (0.1 if ctx.device == "cpu:0" else 0.0)),)

    with pytest.raises(AssertionError, match=r"predictions on cpu:0 are up to 0\.1 apart"):
        agrees_with_cpu(replace(case, cls=Off), "cpu:0")


def test_a_state_that_cannot_be_stored_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"Hoarder, task classification, .*state\.seen is a set"):
        check_local_trainer(Hoarder)


def test_a_trainer_from_outside_passes_with_options_of_its_own() -> None:
    check_local_trainer(SoftTargets, options={"method.order": "joint", "schedule.lr": 0.1})


def test_options_of_groups_that_a_toy_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"groups \['filter'\]"):
        check_local_trainer(SoftTargets, options={"filter.name": "kmeans"})

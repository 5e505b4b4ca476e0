"""Clients trained side by side against the same clients one by one: whole runs, and who fails alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedkd.experiment import Experiment
from fedkd.federation.checkpoint import Checkpoints
from fedkd.federation.fitting import groups
from fedkd.federation.messages import Job
from fedkd.federation.store import StateStore
from fedkd.federation.workspace import Node, Workspace
from fedkd.methods import stacked_training
from fedkd.methods.base import Context, State
from fedkd.methods.lesson import Lesson
from fedkd.methods.soft_targets import SoftTargets
from fedkd.report.folder import RunFolder
from fedkd.rows import Knowledge
from fedkd.runner import conduct_locally, start_run
from fedkd.testing.cases import require_close
from fedkd.types import Metrics
from tests.harness import events, experiment, metrics

EVERY = {"schedule.private_steps": 0, "rounds": 2, "model.hidden": 16}
CASES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "edgefd": ("edgefd", {}),
    "ragged": ("edgefd", {"partition.name": "dirichlet", "partition.alpha": 0.3, **EVERY}),
    "private first": ("fedmd_sfd", {"method.order": "private_then_distil", **EVERY}),
    "distil first": ("dsfl", {"method.order": "distil_then_private", "partition.name": "iid", **EVERY}),
    "probabilities": ("edgefd", {"method.payload": "probs"}),
    "fd": ("fd", {"partition.name": "dirichlet", **EVERY}),
    "schedules": (
        "local_only",
        {
            "schedule.lr_decay": "cosine",
            "schedule.warmup": 0.2,
            "schedule.weight_decay": 0.01,
            "schedule.momentum": 0.5,
        },
    ),
    "two architectures": ("edgefd", {"model.name": "mlp,resnet8", "data.name": "digits", "num_clients": 4}),
}


def states(out: Path) -> dict[int, Any]:
    """Every client's last state."""
    folder = RunFolder.open(out)
    progress = Checkpoints(folder.checkpoints).load()
    assert progress is not None
    store = StateStore(folder.state)
    return {client: store.read(ref, client) for client, ref in progress.refs.items()}


def run(chosen: Experiment, out: Path) -> None:
    """A whole run but for its report."""
    conduct_locally(start_run(chosen, out), with_report=False)


def both(chosen: dict[str, Any], preset: str, tmp_path: Path) -> list[Path]:
    """The same experiment one by one and side by side."""
    for mode in ("never", "always"):
        run(experiment(preset, {**chosen, "engine.stack": mode}), tmp_path / mode)
    return [tmp_path / "never", tmp_path / "always"]


@pytest.mark.parametrize("case", CASES)
def test_side_by_side_is_one_by_one(case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    preset, chosen = CASES[case]
    alone, together = both(chosen, preset, tmp_path)
    assert "one by one" not in caplog.text
    # After two or three rounds; what one round adds is tested with each method.
    require_close(states(together), states(alone), "states", atol=1e-4, rtol=1e-3)
    first, second = events(alone), events(together)
    for round_id in first:
        assert second[round_id].get("wire/uplink_bytes") == first[round_id].get("wire/uplink_bytes")
    last = max(first)
    assert second[last]["acc/mean"] == pytest.approx(first[last]["acc/mean"], abs=0.01)


@pytest.mark.parametrize(("precision", "sizes"), [("float32", [4]), ("bf16", [1, 1, 1, 1])])
def test_in_bf16_every_client_trains_alone(
    precision: str, sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = experiment("edgefd", {"num_clients": 4, "engine.stack": "always", "engine.precision": precision})
    monkeypatch.setattr(Workspace, "device", "cpu")
    workspace = Workspace(Job(experiment=chosen.flat(), state_root=str(tmp_path)), Node())
    assert [len(group) for group in groups(workspace, range(4))] == sizes


@pytest.mark.parametrize("partition", ["strong", "dirichlet"])
def test_a_client_s_numbers_do_not_depend_on_its_cohort(partition: str, tmp_path: Path) -> None:
    chosen = {"partition.name": partition, "schedule.private_steps": 0, "rounds": 2, "engine.stack": "always"}
    for size in (0, 1, 3):
        run(experiment("edgefd", {**chosen, "clients_per_node": size}), tmp_path / str(size))
    assert metrics(tmp_path / "1") == metrics(tmp_path / "0")
    assert metrics(tmp_path / "3") == metrics(tmp_path / "0")


def test_a_stack_that_fails_is_trained_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    run(experiment("edgefd", {"engine.stack": "never"}), tmp_path / "never")
    monkeypatch.setattr(stacked_training, "train_stack", out_of_memory)
    run(experiment("edgefd", {"engine.stack": "always"}), tmp_path / "always")
    assert "could not be trained side by side, now one by one: RuntimeError: out of memory" in caplog.text
    assert metrics(tmp_path / "always") == metrics(tmp_path / "never")


def test_a_client_whose_lesson_cannot_be_told_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = SoftTargets.lesson

    def lesson(self: SoftTargets, ctx: Context, state: State, knowledge: Knowledge) -> Lesson | None:
        if ctx.client_id == 3:
            raise ValueError("no")
        return told(self, ctx, state, knowledge)

    run(experiment("edgefd", {"engine.stack": "always"}), tmp_path / "told")
    monkeypatch.setattr(SoftTargets, "lesson", lesson)
    run(experiment("edgefd", {"engine.stack": "always"}), tmp_path / "not")
    found, expected = states(tmp_path / "not"), states(tmp_path / "told")
    require_close(found[3], expected[3], "client 3, by fit", atol=1e-4, rtol=1e-3)
    assert events(tmp_path / "not")[0]["replies/failures"] == 0


class OwnFit(SoftTargets):  # type: ignore[misc] # nobody should, but somebody will
    def fit(self, ctx: Context, state: State, knowledge: Knowledge) -> tuple[State, Metrics]:
        return state, {"own": 1.0}


def test_a_subclass_with_a_fit_of_its_own_is_trained_by_it(tmp_path: Path) -> None:
    name = f"{__name__}:OwnFit"
    run(experiment("edgefd", {"engine.stack": "always", "method.name": name, "rounds": 1}), tmp_path / "run")
    assert events(tmp_path / "run")[0]["train/own"] == 1.0

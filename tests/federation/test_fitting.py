"""Clients trained side by side against the same clients one by one: whole runs, and who fails alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedkd.federation.checkpoint import Checkpoints
from fedkd.federation.fitting import groups
from fedkd.federation.messages import Job
from fedkd.federation.store import StateStore
from fedkd.federation.workspace import Node, Workspace
from fedkd.report.folder import RunFolder
from fedkd.runner import run
from fedkd.testing.cases import require_close
from tests.harness import events, experiment

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

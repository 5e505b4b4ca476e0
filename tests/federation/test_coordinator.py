from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkd import metric_names as m
from fedkd import runner
from fedkd.federation.checkpoint import Checkpoints
from fedkd.runner import conduct, start_run
from tests.harness import MovingFleet, WatchedFleet, digests, events, experiment, metrics, watch

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "write_report", lambda folder: None)


def run(out: Path, preset: str = "edgefd", **changes: Any) -> WatchedFleet:
    return watch(experiment(preset, {"num_clients": 5, **changes}), out)


def field(fleet: WatchedFleet, name: str) -> list[Any]:
    return [message.shared.header[name] for message in fleet.rounds()]


def test_the_course_of_a_run(tmp_path: Path) -> None:
    fleet = run(tmp_path / "run", **{"rounds": 5, "checkpoint.every": 2, "evaluate.every": 3})
    assert [message.kind for message in fleet.messages] == ["contribute", "proxy", *["round"] * 6]
    assert field(fleet, "round_id") == [0, 1, 2, 3, 4, 5]
    assert field(fleet, "closing") == [False] * 5 + [True]
    assert field(fleet, "wants_share") == [True] * 5 + [False]
    assert field(fleet, "durable") == [False, True, False, True, True, True]
    assert field(fleet, "evaluate") == [False, False, True, False, False, True]
    numbers = events(tmp_path / "run")
    assert [round_id for round_id, event in numbers.items() if m.ACC_MEAN in event] == [2, 5]
    assert list(numbers) == [-1, 0, 1, 2, 3, 4, 5]
    assert [message.shared.header["rows"] == [] for message in fleet.rounds()] == [True] + [False] * 5


def test_knowledge_is_the_mean_of_what_was_said_in_the_round_before(tmp_path: Path) -> None:
    first, second, *_ = run(tmp_path / "run").rounds()
    votes: dict[int, list[np.ndarray]] = {}
    for answer in first.answers().values():
        for row, value in zip(answer.arrays["share/0/ids"], answer.arrays["share/0/values"], strict=True):
            votes.setdefault(int(row), []).append(value)
    known = second.shared.arrays
    assert known["knowledge/0/ids"].tolist() == sorted(votes)
    np.testing.assert_allclose(
        known["knowledge/0/values"], np.stack([np.mean(votes[row], axis=0) for row in sorted(votes)]), rtol=1e-5
    )
    assert known["knowledge/0/column/voters"].tolist() == [len(votes[row]) for row in sorted(votes)]


def test_clients_start_from_the_states_they_left(tmp_path: Path) -> None:
    fleet = run(tmp_path / "run", **{"checkpoint.every": 1})
    for before, after in zip(fleet.rounds(), fleet.rounds()[1:], strict=False):
        left = {client: answer.header["ref"] for client, answer in before.answers().items()}
        assert {client: parcel.header["refs"][1] for client, parcel in after.clients.items()} == left
    assert all(parcel.header["refs"][1] is None for parcel in fleet.rounds()[0].clients.values())


def test_old_states_and_checkpoints_do_not_pile_up(tmp_path: Path) -> None:
    run(tmp_path / "run", **{"rounds": 8, "checkpoint.every": 1, "schedule.private_steps": 1})
    out = tmp_path / "run"
    assert sorted(path.name for path in (out / "state").iterdir()) == [
        "round-000006",
        "round-000007",
        "round-000008",
        "setup",
    ]
    assert sorted(path.name for path in (out / "checkpoints").glob("round-*")) == [
        "round-000008.safetensors",
        "round-000009.safetensors",
    ]
    assert not list(out.rglob("*.tmp"))


def test_half_precision_on_the_way_up_costs_two_bytes_a_value(tmp_path: Path) -> None:
    run(tmp_path / "run", **{"codec.name": "float16"})
    setting = Checkpoints(tmp_path / "run" / "checkpoints").load_setting()
    assert setting is not None
    numbers = events(tmp_path / "run")
    assert numbers[0][m.UPLINK_PER_CLIENT] == [int(mask.sum()) * (2 * 10 + 4) for mask in setting.accepted.values()]


def test_an_experiment_without_exchange_sends_nothing(tmp_path: Path) -> None:
    fleet = run(tmp_path / "run", "local_only")
    assert field(fleet, "wants_share") == [False] * 4
    arrays = [name for message in fleet.messages for answer in message.answers().values() for name in answer.arrays]
    assert set(arrays) == {"table/confusion"}
    assert {numbers.get(m.UPLINK_BYTES, 0) for numbers in events(tmp_path / "run").values()} == {0}


@pytest.mark.parametrize("preset", ["edgefd", "fd", "edgefd_views"])
def test_clients_may_move_from_worker_to_worker(preset: str, tmp_path: Path) -> None:
    chosen = experiment(preset, {"num_clients": 5, "checkpoint.every": 2})
    watch(chosen, tmp_path / "resting")
    with MovingFleet(3) as fleet:
        conduct(start_run(chosen, tmp_path / "moving"), fleet, engine="local")
    assert metrics(tmp_path / "moving") == metrics(tmp_path / "resting")
    assert digests(tmp_path / "moving") == digests(tmp_path / "resting")


def test_equal_seeds_give_equal_runs_and_others_do_not(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run(tmp_path / name, seed=seed)
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b") != metrics(tmp_path / "c")

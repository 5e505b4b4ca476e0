"""A run that is stopped and resumed leaves the same numbers and the same states as one that was not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedkd import metric_names as m
from fedkd import runner
from fedkd.federation import tree
from fedkd.federation.checkpoint import Checkpoints, Progress
from fedkd.federation.store import StateStore
from fedkd.report.folder import RunFolder
from tests.harness import StoppedError, digests, events, experiment, metrics, watch, watch_run

ROUNDS = 6
CHANGES = {"rounds": ROUNDS, "num_clients": 5}
PRESETS = ("edgefd", "fd", "dsfl", "edgefd_views")
SET_UP = {"edgefd": 2, "fd": 0, "dsfl": 2, "edgefd_views": 2}  # messages before round 0
Straight = Callable[[str], Path]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """Folder of an unbroken run; each preset runs once."""
    root = tmp_path_factory.mktemp("straight")

    def run(preset: str) -> Path:
        if not (root / preset).exists():
            watch(experiment(preset, CHANGES), root / preset)
        return root / preset

    return run


def last_progress(out: Path) -> Progress:
    progress = Checkpoints(RunFolder.open(out).checkpoints).load()
    assert progress is not None
    return progress


def stop_and_resume(out: Path, preset: str, every: int, **stop: int) -> None:
    with pytest.raises(StoppedError):
        watch(experiment(preset, {**CHANGES, "checkpoint.every": every}), out, **stop)
    runner.resume(out)


def assert_same(got: Path, expected: Path) -> None:
    assert metrics(got) == metrics(expected)
    assert digests(got) == digests(expected)
    resumed, unbroken = (last_progress(out) for out in (got, expected))
    assert resumed.next_round == ROUNDS + 1
    assert resumed.scores == unbroken.scores
    assert tree.digest(tree.to_parcel(resumed.scheme)) == tree.digest(tree.to_parcel(unbroken.scheme))
    store = StateStore(RunFolder.open(got).state)
    assert all(store.read(ref, client_id) for client_id, ref in resumed.refs.items())


@pytest.mark.parametrize("every", [1, 2, 4])
@pytest.mark.parametrize("preset", PRESETS)
def test_stopped_before_a_round(preset: str, every: int, straight: Straight, tmp_path: Path) -> None:
    stop_and_resume(tmp_path / "run", preset, every, stop_before=SET_UP[preset] + 3)
    assert_same(tmp_path / "run", straight(preset))


@pytest.mark.parametrize("every", [1, 2, 4])
@pytest.mark.parametrize("preset", PRESETS)
def test_stopped_when_all_had_trained(preset: str, every: int, straight: Straight, tmp_path: Path) -> None:
    # States of round 5 lie on the disk; nobody counted the replies.
    stop_and_resume(tmp_path / "run", preset, every, stop_after=SET_UP[preset] + 4)
    assert_same(tmp_path / "run", straight(preset))


@pytest.mark.parametrize("stop", [{"stop_before": ROUNDS}, {"stop_after": ROUNDS}], ids=str)
@pytest.mark.parametrize("preset", ["edgefd", "fd"])
def test_stopped_around_the_closing_message(
    preset: str, stop: dict[str, int], straight: Straight, tmp_path: Path
) -> None:
    (name, number), *_ = stop.items()
    stop_and_resume(tmp_path / "run", preset, 4, **{name: number + SET_UP[preset]})
    assert_same(tmp_path / "run", straight(preset))


@pytest.mark.parametrize(
    "stop", [{when: number} for when in ("stop_before", "stop_after") for number in (0, 1)], ids=str
)
def test_stopped_during_the_set_up(stop: dict[str, int], straight: Straight, tmp_path: Path) -> None:
    stop_and_resume(tmp_path / "run", "edgefd", 2, **stop)
    assert_same(tmp_path / "run", straight("edgefd"))


def test_stopped_before_the_first_round(straight: Straight, tmp_path: Path) -> None:
    stop_and_resume(tmp_path / "run", "fd", 2, stop_before=0)
    assert_same(tmp_path / "run", straight("fd"))


def test_stopped_again_and_again(straight: Straight, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(StoppedError):
        watch(experiment("dsfl", {**CHANGES, "checkpoint.every": 2}), out, stop_before=3)
    for stop in (1, 2, 3):
        with pytest.raises(StoppedError):
            watch_run(runner.open_run(out), stop_after=stop)
    runner.resume(out)
    assert_same(out, straight("dsfl"))


@pytest.mark.parametrize("at", [-1, 0, 3, ROUNDS])
def test_stopped_by_a_listener(at: int, straight: Straight, tmp_path: Path) -> None:
    out = tmp_path / "run"

    def listen(event: Any) -> None:
        if event["round_id"] == at:
            raise StoppedError

    with pytest.raises(StoppedError):
        runner.run(experiment("edgefd", CHANGES), out, listeners=[listen])
    runner.resume(out)
    assert_same(out, straight("edgefd"))


def test_a_finished_run_is_left_as_it_is(straight: Straight, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight("edgefd"), out)
    heard: list[Any] = []
    runner.resume(out, listeners=[heard.append])
    assert heard == []
    assert_same(out, straight("edgefd"))


def test_a_damaged_newest_checkpoint_costs_some_rounds(straight: Straight, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(StoppedError):
        watch(experiment("edgefd", {**CHANGES, "checkpoint.every": 2}), out, stop_before=2 + 5)
    newest = out / "checkpoints" / "round-000004.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    runner.resume(out)
    assert_same(out, straight("edgefd"))


def test_half_a_line_of_numbers_is_dropped(straight: Straight, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(StoppedError):
        watch(experiment("edgefd", {**CHANGES, "checkpoint.every": 1}), out, stop_before=2 + 3)
    with (out / "metrics.jsonl").open("ab") as file:
        file.write(b'{"round_id": 3, "acc')
    runner.resume(out)
    assert_same(out, straight("edgefd"))


@pytest.mark.parametrize("how", ["mean", "median"])
def test_a_memory_of_rows_is_resumed(how: str, tmp_path: Path) -> None:
    """Each round asks for another part of the proxy set, so most of what is known is remembered."""
    changes: dict[str, Any] = {**CHANGES, "scheme.memory": True, "scheme.how": how, "proxy.per_round": 20}
    watch(experiment("edgefd", changes), tmp_path / "straight")
    with pytest.raises(StoppedError):
        watch(experiment("edgefd", {**changes, "checkpoint.every": 2}), tmp_path / "run", stop_before=2 + 3)
    runner.resume(tmp_path / "run")
    assert_same(tmp_path / "run", tmp_path / "straight")
    (known,) = last_progress(tmp_path / "run").scheme["memory"]
    assert len(known["ids"]) > 20
    assert known["columns"]["age"].max() > 0


def test_the_numbers_compared_would_show_a_lost_server_model(straight: Straight) -> None:
    found = [
        numbers[m.SERVER_ACC] for _, numbers in sorted(events(straight("dsfl")).items()) if m.SERVER_ACC in numbers
    ]
    assert len(found) == ROUNDS
    assert len(set(found)) > 1


def test_the_server_model_moves_on_in_every_round(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(StoppedError):
        watch(experiment("dsfl", {**CHANGES, "checkpoint.every": 1}), out, stop_before=SET_UP["dsfl"] + 2)
    second = last_progress(out)
    (out / "checkpoints" / "round-000002.safetensors").unlink()
    first = last_progress(out)
    assert (first.next_round, second.next_round) == (1, 2)
    assert tree.digest(tree.to_parcel(first.scheme)) != tree.digest(tree.to_parcel(second.scheme))

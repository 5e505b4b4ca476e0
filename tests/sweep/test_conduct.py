"""Sweeps that run: kept cells, stops, failures, workers."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fedkd.errors import ConfigError, DataError
from fedkd.report.cells import CELLS, CellResult
from fedkd.sweep.conduct import Progress, conduct_sweep, path_of, pending
from fedkd.sweep.plan import Cell, Sweep, load_sweep
from fedkd.sweep.pool import Done, job_of, run_locally
from fedkd.sweep.work import run_cell

SMALL = """
[base]
rounds = 2
schedule.private_steps = 2
data.max_train = 200
data.max_test = 50
num_clients = 5
[axes]
preset = ["edgefd", "local_only"]
seed = [0, 1]
"""


@pytest.fixture
def small(tmp_path: Path) -> Sweep:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return load_sweep(path)


def here(cells: Sequence[Cell]) -> Iterator[Done]:
    """Cells one after the other in this process."""
    for cell in cells:
        yield cell, run_cell(json.loads(json.dumps(job_of(cell))))


def numbers(results: Sequence[CellResult]) -> list[tuple[object, ...]]:
    """All that does not come from a clock."""
    return [
        (dict(each.labels), each.summary["metric_per_client"], dict(each.series), each.confusion) for each in results
    ]


def test_a_stopped_sweep_goes_on_and_ends_with_the_same_numbers(small: Sweep, tmp_path: Path) -> None:
    straight = conduct_sweep(small, tmp_path / "straight", here)

    def stops(cells: Sequence[Cell]) -> Iterator[Done]:
        yield from list(here(cells[:1]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conduct_sweep(small, tmp_path / "stopped", stops)
    assert [cell.name for cell in pending(small, tmp_path / "stopped")] == [cell.name for cell in small.cells[1:]]
    before = path_of(tmp_path / "stopped", small.cells[0]).read_bytes()
    seen: list[Progress] = []
    resumed = conduct_sweep(small, tmp_path / "stopped", here, listener=seen.append)
    assert numbers(resumed) == numbers(straight)
    assert path_of(tmp_path / "stopped", small.cells[0]).read_bytes() == before  # a finished cell is never run again
    assert [(each.done, each.of, each.kept) for each in seen] == [(1, 3, 1), (2, 3, 1), (3, 3, 1)]
    assert pending(small, tmp_path / "stopped") == []


def test_cells_say_nothing_of_the_machine_that_measured_them(small: Sweep, tmp_path: Path) -> None:
    sweep = load_sweep(tmp_path / "small.toml", {"data.root": str(tmp_path), "rounds": 1, "seed": 0})
    for cell in conduct_sweep(sweep, tmp_path / "out", here):
        assert str(tmp_path) not in json.dumps(dict(cell.config))
        assert cell.config["rounds"] == 1


def test_two_workers_give_the_numbers_of_this_process(small: Sweep, tmp_path: Path) -> None:
    here_alone = conduct_sweep(small, tmp_path / "one", here)
    two = conduct_sweep(small, tmp_path / "two", lambda cells: run_locally(cells, workers=2))
    assert numbers(two) == numbers(here_alone)
    assert sorted(path.name for path in (tmp_path / "two" / CELLS).iterdir()) == sorted(
        f"{cell.name}.json" for cell in small.cells
    )


def test_a_failed_cell_stops_nothing_and_is_tried_again(small: Sweep, tmp_path: Path) -> None:
    def fails_once(cells: Sequence[Cell]) -> Iterator[Done]:
        yield cells[0], "the worker process ended with code -9"
        yield from here(cells[1:])

    results = conduct_sweep(small, tmp_path / "out", fails_once)
    assert [result.is_done for result in results] == [False, True, True, True]
    assert "code -9" in results[0].error
    assert [cell.name for cell in pending(small, tmp_path / "out")] == [small.cells[0].name]
    assert all(result.is_done for result in conduct_sweep(small, tmp_path / "out", here))


def test_a_run_that_raises_is_a_failed_cell(small: Sweep) -> None:
    cell = small.cells[0]
    broken = Cell(labels=cell.labels, values={**cell.values, "data.max_test": 1}, origin=cell.origin)
    result = CellResult(**run_cell(job_of(broken)))
    assert not result.is_done
    assert "data.max_test is 1" in result.error


def test_a_worker_that_dies_costs_its_cell_alone(small: Sweep, tmp_path: Path) -> None:
    cell = small.cells[0]
    values = {**cell.values, "method.name": "tests.doubles:Faulty", "method.fault": "die", "method.clients": "all"}
    dying = Cell(labels={"preset": "dying"}, values=values | {"method.rounds": "0"}, origin="the test")
    answers = {each.name: answer for each, answer in run_locally([dying, *small.cells[:2]], workers=1)}
    assert "ended with code" in str(answers[dying.name])
    assert all(not isinstance(answers[each.name], str) for each in small.cells[:2])


def test_cells_of_other_keys_are_not_taken_for_these(small: Sweep, tmp_path: Path) -> None:
    conduct_sweep(small, tmp_path / "out", here)
    changed = load_sweep(tmp_path / "small.toml", {"rounds": 3})
    with pytest.raises(ConfigError, match=r"was measured with other keys than the sweep now has"):
        pending(changed, tmp_path / "out")


def test_a_damaged_cell_is_run_anew(small: Sweep, tmp_path: Path) -> None:
    conduct_sweep(small, tmp_path / "out", here)
    path_of(tmp_path / "out", small.cells[1]).write_text("{")
    assert [cell.name for cell in pending(small, tmp_path / "out")] == [small.cells[1].name]
    with pytest.raises(DataError, match="is no cell of a sweep"):
        CellResult.read(path_of(tmp_path / "out", small.cells[1]))

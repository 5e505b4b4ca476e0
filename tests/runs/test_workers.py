"""However many processes and cohorts there are, the numbers are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedkd import metric_names as m
from fedkd import runner
from tests.harness import StoppedError, digests, events, experiment, metrics, watch

TEN: dict[str, Any] = {"num_clients": 10}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, one cohort."""
    out = tmp_path_factory.mktemp("alone") / "run"
    runner.run(experiment("edgefd", TEN), out)
    return out


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("clients_per_node", [1, 2, 10])
def test_workers_and_cohorts_change_no_number(workers: int, clients_per_node: int, alone: Path, tmp_path: Path) -> None:
    changes = {**TEN, "engine.workers": workers, "clients_per_node": clients_per_node}
    runner.run(experiment("edgefd", changes), tmp_path / "run")
    assert metrics(tmp_path / "run") == metrics(alone)
    assert digests(tmp_path / "run") == digests(alone)


def test_a_run_over_children_can_be_resumed(alone: Path, tmp_path: Path) -> None:
    changes = {**TEN, "engine.workers": 2, "checkpoint.every": 1}
    with pytest.raises(StoppedError):
        watch(experiment("edgefd", changes), tmp_path / "run", stop_after=2 + 1)
    runner.resume(tmp_path / "run")
    assert metrics(tmp_path / "run") == metrics(alone)
    assert digests(tmp_path / "run") == digests(alone)


def test_a_killed_child_costs_its_cohort_one_round(tmp_path: Path) -> None:
    method = {"method.name": "tests.doubles:Faulty", "method.fault": "die", "method.clients": "7", "method.rounds": "2"}
    changes = {**TEN, **method, "engine.workers": 2, "rounds": 7, "schedule.private_steps": 20}
    fleet = watch(experiment("edgefd", changes), tmp_path / "run")
    numbers = events(tmp_path / "run")
    assert [numbers[r][m.GOOD_REPLIES] for r in range(8)] == [10, 10, 5, 10, 10, 10, 10, 10]
    assert [numbers[r][m.FAILURES] for r in range(8)] == [0, 0, 5, 0, 0, 0, 0, 0]
    failures = {client: failure.reason for client, failure in fleet.rounds()[2].answers().items() if client > 4}
    assert failures.keys() == {5, 6, 7, 8, 9}
    assert all("ended with code 9" in reason for reason in failures.values())
    # The new child reads from the store what the dead one had left.
    before, after = (fleet.rounds()[round_id].clients for round_id in (2, 3))
    for client in failures:
        assert after[client].header["refs"] == before[client].header["refs"]
        assert before[client].header["refs"][1][0].startswith("round-000001/")
    assert numbers[7][m.ACC_MEAN] > 0.7
    # Folders of states: of the last two checkpoints, and the newest.
    assert len(list((tmp_path / "run" / "state").glob("round-*"))) <= 3

"""What the filter decides holds for the whole run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkd import metric_names as m
from fedkd import runner
from fedkd.federation.checkpoint import Checkpoints
from fedkd.report.events import read_events
from tests.doubles import CountedFilter
from tests.harness import WatchedFleet, events, experiment, watch

STRICT: dict[str, Any] = {"filter.quantile": 0.3, "num_clients": 5}


def accepted(out: Path) -> np.ndarray:
    """Masks (m, p)."""
    setting = Checkpoints(out / "checkpoints").load_setting()
    assert setting is not None
    return np.stack([mask for _, mask in sorted(setting.accepted.items())])


def ids_in(fleet: WatchedFleet) -> tuple[list[dict[int, Any]], list[Any]]:
    """Ids of every uplink by round and client, and of every downlink."""
    up = [
        {client: answer.arrays["share/0/ids"] for client, answer in message.answers().items()}
        for message in fleet.rounds()[:-1]
    ]
    return up, [message.shared.arrays["knowledge/0/ids"] for message in fleet.rounds()[1:]]


def test_with_the_own_sample_stage_every_sample_has_a_voter(tmp_path: Path) -> None:
    fleet = watch(experiment("edgefd", {**STRICT, "filter.own_sample_stage": True}), tmp_path / "run")
    masks = accepted(tmp_path / "run")
    for client, parcel in fleet.messages[1].clients.items():
        assert masks[client][parcel.arrays["own_ids"]].all()
    assert masks.any(axis=0).all()
    _, down = ids_in(fleet)
    for ids in down:
        np.testing.assert_array_equal(ids, np.arange(masks.shape[1]))
    assert {numbers[m.COVERAGE] for round_id, numbers in events(tmp_path / "run").items() if 0 <= round_id < 3} == {1}


def test_without_it_samples_that_nobody_accepts_are_never_sent(tmp_path: Path) -> None:
    fleet = watch(experiment("edgefd", {**STRICT, "filter.own_sample_stage": False}), tmp_path / "run")
    masks = accepted(tmp_path / "run")
    covered = np.flatnonzero(masks.any(axis=0))
    assert 0 < len(covered) < masks.shape[1]
    up, down = ids_in(fleet)
    for said in up:
        for client, ids in said.items():
            np.testing.assert_array_equal(ids, np.flatnonzero(masks[client]))
    for ids in down:
        np.testing.assert_array_equal(ids, covered)
    shares = [numbers[m.COVERAGE] for round_id, numbers in events(tmp_path / "run").items() if 0 <= round_id < 3]
    assert shares == [pytest.approx(len(covered) / masks.shape[1])] * 3


def test_a_part_of_the_proxy_is_asked_for_in_each_round(tmp_path: Path) -> None:
    fleet = watch(experiment("edgefd", {"num_clients": 5, "proxy.per_round": 20}), tmp_path / "run")
    masks = accepted(tmp_path / "run")
    asked = [message.shared.arrays["asked"] for message in fleet.rounds()[:-1]]
    assert [len(ids) for ids in asked] == [20, 20, 20]
    assert len({ids.tobytes() for ids in asked}) == 3
    up, down = ids_in(fleet)
    for said, ids, known in zip(up, asked, down, strict=True):
        for client, answered in said.items():
            np.testing.assert_array_equal(answered, ids[masks[client][ids]])
        np.testing.assert_array_equal(known, ids)
    assert "asked" not in fleet.rounds()[-1].shared.arrays


def test_a_filter_is_fitted_once_and_costs_nothing_per_round(tmp_path: Path) -> None:
    CountedFilter.calls.clear()
    calls: dict[int, list[str]] = {}

    def note(event: Any) -> None:
        calls.setdefault(event["round_id"], list(CountedFilter.calls))

    changes = {"num_clients": 5, "filter.name": "tests.doubles:CountedFilter"}
    runner.run(experiment("edgefd", changes), tmp_path / "run", listeners=[note])
    assert calls[-1].count("fit") == calls[-1].count("calibrate") == 5
    assert {round_id: seen == calls[-1] for round_id, seen in calls.items()} == dict.fromkeys(range(-1, 4), True)
    timings = {event["round_id"]: event for event in read_events(tmp_path / "run" / "timings.jsonl")}
    assert timings[-1][m.SECONDS_FILTER] > 0
    assert [round_id for round_id, event in timings.items() if m.SECONDS_FILTER in event] == [-1]


def test_rows_that_the_filter_rejects_never_leave_whatever_the_trainer_says(tmp_path: Path) -> None:
    changes = {"num_clients": 5, "method.name": "tests.doubles:Talkative", "method.order": "joint"}
    fleet = watch(experiment("edgefd", changes), tmp_path / "run")
    masks = accepted(tmp_path / "run")
    assert events(tmp_path / "run")[0]["train/rows_seen"] == masks.shape[1]
    up, _ = ids_in(fleet)
    for said in up:
        for client, ids in said.items():
            np.testing.assert_array_equal(ids, np.flatnonzero(masks[client]))

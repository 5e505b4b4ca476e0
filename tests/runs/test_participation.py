"""Rounds that ask some of the clients only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedkd import metric_names as m
from fedkd import runner
from fedkd.federation.fleet import CohortReply
from fedkd.federation.messages import ClientFailure
from fedkd.runner import conduct, start_run
from tests.harness import Message, MovingFleet, StoppedError, digests, events, experiment, metrics, watch

SOME: dict[str, Any] = {"num_clients": 5, "participation": 0.4, "rounds": 6}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("straight") / "run"
    watch(experiment("edgefd", SOME), out)
    return out


def test_each_round_asks_a_fresh_draw_and_the_closing_message_all(straight: Path) -> None:
    numbers = events(straight)
    asked = [[i for i, score in enumerate(numbers[r][m.ACC_PER_CLIENT]) if score is not None] for r in range(7)]
    assert [len(clients) for clients in asked] == [2] * 6 + [5]
    assert len({tuple(clients) for clients in asked[:-1]}) > 1
    assert {numbers[r][m.FAILURES] for r in range(7)} == {0}


def test_who_rests_costs_no_bytes(tmp_path: Path) -> None:
    fleet = watch(experiment("edgefd", {**SOME, "checkpoint.every": 2}), tmp_path / "run")
    numbers = events(tmp_path / "run")
    resting = 0
    for message in fleet.rounds():
        idle = [parcel for parcel in message.clients.values() if parcel.header.get("idle")]
        resting += len(idle)
        assert all(parcel.arrays == {} for parcel in idle)
        busy = len(message.clients) - len(idle)
        assert numbers[message.round_id or 0][m.DOWNLINK_BYTES] == message.shared.nbytes * busy
    assert resting > 0  # states in memory alone were made durable


@pytest.mark.parametrize("every", [1, 2, 4])
@pytest.mark.parametrize("stop_before", [2 + 3, 2 + 5])
def test_a_resumed_run_equals_an_unbroken_one(every: int, stop_before: int, straight: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(StoppedError):
        watch(experiment("edgefd", {**SOME, "checkpoint.every": every}), out, stop_before=stop_before)
    runner.resume(out)
    assert metrics(out) == metrics(straight)
    assert digests(out) == digests(straight)


@pytest.mark.usefixtures("one_torch_thread")
def test_clients_may_move_from_worker_to_worker(straight: Path, tmp_path: Path) -> None:
    with MovingFleet(3) as fleet:
        conduct(start_run(experiment("edgefd", SOME), tmp_path / "run"), fleet, engine="local")
    assert metrics(tmp_path / "run") == metrics(straight)
    assert digests(tmp_path / "run") == digests(straight)


def test_clients_that_were_never_set_up_are_not_drawn(tmp_path: Path) -> None:
    def fail(message: Message, reply: CohortReply) -> CohortReply:
        lost = {i: ClientFailure(i, "no memory") for i in (0, 1, 2, 4)} if message.kind == "proxy" else {}
        return replace(reply, clients={**reply.clients, **lost})

    fleet = watch(experiment("edgefd", {**SOME, "participation": 0.2}), tmp_path / "run", spoil=fail)
    assert [list(message.clients) for message in fleet.rounds()] == [[3]] * 7

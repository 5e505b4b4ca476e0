"""Asking again for what was lost, over replies that are made up."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from fedkd.federation import again
from fedkd.federation.again import TRIES, ask_again
from fedkd.federation.fleet import CohortReply, failed_cohort
from fedkd.federation.messages import ROUND, Request
from fedkd.federation.wire import Parcel
from tests.federation.fake_grid import answered, failures


class Workers:
    """Answers cohorts of two; `lost[client]` times, the cohort of this client is lost with its worker."""

    def __init__(self, lost: dict[int, int] | None = None) -> None:
        self.lost = lost or {}
        self.asked: list[list[int]] = []
        self.seconds: list[float] = []

    def __call__(self, request: Request, within_s: float) -> Iterator[CohortReply]:
        clients = sorted(request.clients)
        self.asked.append(clients)
        self.seconds.append(within_s)
        for cohort in (clients[i : i + 2] for i in range(0, len(clients), 2)):
            unlucky = [client for client in cohort if self.lost.get(client, 0)]
            for client in unlucky:
                self.lost[client] -= 1
            if unlucky:
                yield failed_cohort(cohort, "the worker died", is_lost=True)
            else:
                yield CohortReply(Parcel(), {client: request.clients[client] for client in cohort})


def replies(workers: Workers, *, deadline_s: float = 5.0) -> list[CohortReply]:
    request = Request(kind=ROUND, shared=Parcel(), clients={i: Parcel({"mine": i}) for i in range(6)})
    return list(ask_again(workers, request, deadline_s=deadline_s))


def test_where_nobody_is_lost_everyone_is_asked_once() -> None:
    workers = Workers()
    assert answered(replies(workers)) == [0, 1, 2, 3, 4, 5]
    assert workers.asked == [[0, 1, 2, 3, 4, 5]]


def test_the_lost_alone_are_asked_again_with_what_was_theirs(caplog: pytest.LogCaptureFixture) -> None:
    workers = Workers({0: 1, 3: 2})
    with caplog.at_level(logging.WARNING, "fedkd"):
        found = replies(workers)
    assert workers.asked == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3], [2, 3]]
    assert sorted(answered(found)) == [0, 1, 2, 3, 4, 5]
    parcels = {i: parcel for reply in found for i, parcel in reply.clients.items()}
    assert all(parcel.header == {"mine": i} for i, parcel in parcels.items() if isinstance(parcel, Parcel))
    assert "asking again for the clients 0, 1, 2, 3: their worker was lost" in caplog.text


def test_a_failure_of_a_client_is_an_answer() -> None:
    def ask(request: Request, within_s: float) -> Iterator[CohortReply]:
        yield failed_cohort(sorted(request.clients), "no disk")

    request = Request(kind=ROUND, shared=Parcel(), clients={0: Parcel()})
    assert failures(list(ask_again(ask, request, deadline_s=5.0))) == {0: "no disk"}


def test_whoever_is_lost_each_time_is_given_up() -> None:
    workers = Workers({5: TRIES})
    found = replies(workers)
    assert failures(found) == {4: "the worker died", 5: "the worker died"}
    assert sorted(answered(found)) == [0, 1, 2, 3]
    assert len(workers.asked) == TRIES


def test_all_tries_share_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 3.0, 6.0])
    monkeypatch.setattr(again.time, "monotonic", lambda: next(clock))
    workers = Workers({0: TRIES})
    assert failures(replies(workers, deadline_s=5.0)) == {0: "the worker died", 1: "the worker died"}
    assert workers.seconds == [5.0, 2.0]

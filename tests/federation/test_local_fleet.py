from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch

from fedkd.federation import local_fleet as module
from fedkd.federation.local_fleet import LocalFleet
from fedkd.federation.messages import ClientFailure, Request
from fedkd.federation.wire import Bundle, Parcel
from fedkd.federation.worker import Worker

# Stand-ins for the children: they echo the clients of a cohort, with their process id; client 3 is where things happen.
CHILD = """
import os, sys, time
from fedkd.federation.wire import Bundle, Parcel, pack, unpack
from fedkd.federation.worker import _receive, _send
requests, replies = os.fdopen(0, "rb"), os.fdopen(1, "wb")
while (common := _receive(requests)) is not None:
    clients = unpack(_receive(requests)).clients
    if 3 in clients:
        what = unpack(common).shared.header["what"]
        if what == "die":
            os._exit(9)
        if what == "sleep":
            time.sleep(600)
        if what == "babble":
            _send(replies, b"nonsense")
            continue
    said = {"pid": os.getpid(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}
    _send(replies, pack(Bundle("round", Parcel(said), {i: Parcel({"i": i}) for i in clients})))
"""


def start_standin(environ: Mapping[str, str]) -> Worker:
    pipe = subprocess.PIPE
    path = os.pathsep.join(filter(None, sys.path))
    env = {**os.environ, "PYTHONPATH": path, **environ}
    return Worker(subprocess.Popen([sys.executable, "-c", CHILD], stdin=pipe, stdout=pipe, env=env, process_group=0))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Worker]]:
    """Every child that was started; none may be left."""
    every: list[Worker] = []

    def start(*, environ: Mapping[str, str]) -> Worker:
        every.append(start_standin(environ))
        return every[-1]

    monkeypatch.setattr(module.Worker, "start", start)
    yield every
    assert [worker.process.pid for worker in every if worker.is_alive] == []


def request(what: str = "", clients: int = 6) -> Request:
    return Request(kind="round", shared=Parcel({"what": what}), clients={i: Parcel() for i in range(clients)})


def ask(fleet: LocalFleet, what: str = "", *, deadline_s: float = 60.0) -> dict[int, Any]:
    """Client id -> what came back: "good", or why not."""
    answers: dict[int, Any] = {}
    for reply in fleet.broadcast(request(what), deadline_s=deadline_s):
        for client, answer in reply.clients.items():
            assert client not in answers
            answers[client] = answer.reason if isinstance(answer, ClientFailure) else "good"
    return answers


GOOD = dict.fromkeys(range(6), "good")


def test_children_answer_for_all_clients(started: list[Worker]) -> None:
    with LocalFleet(workers=2, clients_per_node=1) as fleet:
        replies = list(fleet.broadcast(request(), deadline_s=60))
        assert [list(reply.clients) for reply in replies] == [[i] for i in range(6)]
        pids = [reply.shared.header["pid"] for reply in replies]
        assert pids == [worker.process.pid for worker in started] * 3  # dealt in turn, and stable from round to round


def gpus_seen(fleet: LocalFleet) -> list[str | None]:
    return [reply.shared.header["gpus"] for reply in fleet.broadcast(request(), deadline_s=60)]


@pytest.mark.parametrize(("device", "seen"), [("auto", ["GPU-a", "MIG-b", "GPU-a"]), ("cpu", ["GPU-a, MIG-b"] * 3)])
def test_each_child_sees_one_gpu_and_so_does_who_takes_its_place(
    started: list[Worker], monkeypatch: pytest.MonkeyPatch, device: str, seen: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, MIG-b")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with LocalFleet(workers=3, device=device) as fleet:
        assert gpus_seen(fleet) == seen
        started[1].kill()
        assert gpus_seen(fleet) == seen


@pytest.mark.parametrize("fault", ["die", "babble"])
def test_a_dead_or_babbling_child_costs_one_cohort_and_the_rest_goes_on(started: list[Worker], fault: str) -> None:
    with LocalFleet(workers=2, clients_per_node=1) as fleet:
        answers = ask(fleet, fault)
        assert {i: answer for i, answer in answers.items() if i != 3} == dict.fromkeys((0, 1, 2, 4, 5), "good")
        assert ("ended with code 9" if fault == "die" else "no valid message") in answers[3]
        assert ask(fleet) == GOOD
    assert len(started) == (3 if fault == "die" else 2)


def test_a_child_that_died_between_messages_costs_nothing(started: list[Worker]) -> None:
    with LocalFleet(workers=2) as fleet:
        assert ask(fleet) == GOOD
        started[1].kill()
        assert ask(fleet) == GOOD
    assert len(started) == 3


def test_who_is_late_is_given_up_and_replaced(started: list[Worker]) -> None:
    with LocalFleet(workers=2, clients_per_node=1) as fleet:
        ask(fleet)  # everyone has started
        answers = ask(fleet, "sleep", deadline_s=3.0)
        # 5 waits behind 3, in the same child
        assert answers == GOOD | dict.fromkeys((3, 5), "no reply within 3 s")
        assert ask(fleet) == GOOD
    assert len(started) == 3  # nobody was started for 5, for whom it was too late


def test_a_message_that_nobody_waits_for_any_more_is_abandoned(started: list[Worker]) -> None:
    with LocalFleet(workers=2, clients_per_node=1) as fleet:
        replies = fleet.broadcast(request("sleep"), deadline_s=600)
        assert list(next(replies).clients) == [0]
        del replies
        assert ask(fleet) == GOOD


def test_closing_ends_children_at_work(started: list[Worker]) -> None:
    fleet = LocalFleet(workers=2, clients_per_node=1)
    replies = fleet.broadcast(request("sleep"), deadline_s=600)
    assert list(next(replies).clients) == [0]  # client 3 is asked for, or will be, in the other child
    fleet.close()
    assert [worker.is_alive for worker in started] == [False] * len(started)
    replies.close()


def test_this_process_serves_a_single_worker_with_one_thread() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with LocalFleet():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_cohorts_here_follow_clients_per_node(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []

    def handle(_: object, common: bytes, cohort: bytes) -> bytes:
        clients = module.unpack(cohort).clients
        asked.append(list(clients))
        return module.pack(Bundle("round", Parcel(), {i: Parcel() for i in clients}))

    monkeypatch.setattr(module.ClientHost, "handle", handle)
    with LocalFleet(clients_per_node=4) as fleet:
        assert ask(fleet) == GOOD
    with LocalFleet() as fleet:
        assert ask(fleet) == GOOD
    assert asked == [[0, 1, 2, 3], [4, 5], [0, 1, 2, 3, 4, 5]]

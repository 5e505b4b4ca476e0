"""FlowerFleet over a grid without Flower's network: the messages are real, the nodes are functions."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity  # internal name

from fedkd.compose import compose
from fedkd.errors import RunError
from fedkd.federation import flower_fleet
from fedkd.federation.fleet import CohortReply
from fedkd.federation.flower_fleet import FlowerFleet, _record
from fedkd.federation.messages import HELLO, ROUND, Request
from fedkd.federation.wire import Parcel
from fedkd.report.folder import RunFolder
from fedkd.runner import conduct, conduct_locally, open_run, start_run
from tests.federation.fake_grid import Answer, FakeGrid, Node, answered, echo, failures

TINY = {"rounds": 2, "schedule.private_steps": 2, "engine.min_good_replies": 10}


@pytest.fixture(autouse=True)
def task_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages want to know the run that they belong to."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_fleet, "POLL_S", 0.001)
    monkeypatch.setattr(flower_fleet, "GREET_AGAIN_S", 0.001)
    monkeypatch.setattr(flower_fleet, "WAIT_FOR_NODES_S", 0.05)


# Who gets which clients. These nodes answer without training anything.


def test_it_waits_for_late_nodes() -> None:
    grid = FakeGrid(arrivals=[[], [], [echo(7)], [echo(8)]])
    assert len(hello(FlowerFleet(grid))) == 2
    assert grid.looks >= 5  # two looks agreed


def test_no_node_at_all_is_an_error_in_time() -> None:
    with pytest.raises(RunError, match=r"no Flower node registered within 0\.05 s; start SuperNodes"):
        hello(FlowerFleet(FakeGrid()))


@pytest.mark.parametrize(
    ("clients_per_node", "expected"),
    [
        (0, {1: [[0, 1, 2, 3, 4]], 2: [[5, 6, 7, 8, 9]]}),
        (3, {1: [[0, 1, 2], [6, 7, 8]], 2: [[3, 4, 5], [9]]}),
        (10, {1: [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]], 2: []}),
    ],
)
def test_clients_are_dealt_over_the_nodes(clients_per_node: int, expected: dict[int, list[list[int]]]) -> None:
    grid = FakeGrid(echo(2), echo(1))
    fleet = FlowerFleet(grid, clients_per_node=clients_per_node)
    hello(fleet)
    assert sorted(answered(ask(fleet, range(10)))) == list(range(10))
    assert {node.node_id: node.asked for node in grid.nodes} == expected


def test_a_node_with_clients_of_its_own_gets_exactly_those() -> None:
    grid = FakeGrid(echo(1, clients=[4, 0]), echo(2, clients=[1]), echo(3))
    fleet = FlowerFleet(grid)
    hello(fleet)
    assert sorted(answered(ask(fleet, range(6)))) == list(range(6))
    assert [node.asked for node in grid.nodes] == [[[0, 4]], [[1]], [[2, 3, 5]]]
    answered(ask(fleet, [0, 1]))  # not asked for: nobody else takes them
    assert [node.asked[1:] for node in grid.nodes] == [[[0]], [[1]], []]


def test_a_client_that_two_nodes_claim_is_asked_once() -> None:
    grid = FakeGrid(echo(1, clients=[0]), echo(2, clients=[0, 1]))
    fleet = FlowerFleet(grid)
    hello(fleet, num_clients=2)
    ask(fleet, range(2))
    assert [node.asked for node in grid.nodes] == [[[0]], [[1]]]


def test_devices_are_waited_for_until_every_client_has_a_node() -> None:
    late = echo(2, clients=[1, 2])
    grid = FakeGrid(echo(1, clients=[0]), arrivals=[[], [], [], [late]])
    fleet = FlowerFleet(grid)
    assert len(hello(fleet, num_clients=3)) == 2
    assert sorted(answered(ask(fleet, range(3)))) == [0, 1, 2]


def test_devices_that_do_not_come_are_named_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    grid = FakeGrid(echo(1, clients=[0]))
    fleet = FlowerFleet(grid)
    with caplog.at_level(logging.WARNING, "fedkd"):
        assert len(hello(fleet, num_clients=3)) == 1
    assert "no node came within 0.05 s for the clients 1, 2" in caplog.text
    assert sorted(answered(ask(fleet, range(3)))) == [0]


def test_a_new_node_is_greeted_before_it_is_asked() -> None:
    grid = FakeGrid(echo(1))
    fleet = FlowerFleet(grid)
    hello(fleet)
    ask(fleet, range(4))
    new = echo(9)
    grid.nodes.append(new)
    ask(fleet, range(4))
    assert new.kinds == ["query.hello", "train"]
    assert [node.asked[-1] for node in grid.nodes] == [[0, 1], [2, 3]]
    assert grid.nodes[0].kinds.count("query.hello") == 1


def test_a_device_that_restarts_keeps_its_client_under_a_new_node_id() -> None:
    grid = FakeGrid(echo(1, clients=[0]), echo(2, clients=[1]))
    fleet = FlowerFleet(grid)
    hello(fleet, num_clients=2)
    grid.nodes[1] = echo(77, clients=[1])
    assert sorted(answered(ask(fleet, range(2)))) == [0, 1]
    assert grid.nodes[1].asked == [[1]]


# What goes wrong costs the cohort that it happened to, nobody else.


def test_an_error_reply_fails_its_cohort_only() -> None:
    grid = FakeGrid(echo(1), Node(2, answer=hello_then(lambda node, message: 1 / 0)))
    fleet = FlowerFleet(grid)
    hello(fleet)
    replies = ask(fleet, range(4))
    assert sorted(answered(replies)) == [0, 1]
    assert failures(replies) == dict.fromkeys((2, 3), "node 2: Flower error 2: ZeroDivisionError: division by zero")


def test_an_error_of_many_lines_is_told_in_one() -> None:
    def dies(node: Node, message: Message) -> Message:
        return Message(Error(0, f"\n <class 'ActorDiedError'>: it died\n\tpid: 7\n{'advice ' * 99}"), reply_to=message)

    fleet = FlowerFleet(FakeGrid(Node(1, answer=hello_then(dies))))
    hello(fleet)
    assert failures(ask(fleet, [0])) == {0: "node 1: Flower error 0: <class 'ActorDiedError'>: it died"}


@pytest.mark.parametrize("code", [0, 5, 8])
def test_clients_of_a_lost_worker_are_asked_for_again(code: int) -> None:
    lost = hello_then(first(2, lambda node, message: Message(Error(code, "gone"), reply_to=message), then=echo(0)))
    grid = FakeGrid(echo(1), Node(2, answer=lost))
    fleet = FlowerFleet(grid)
    hello(fleet)
    assert sorted(answered(ask(fleet, range(4)))) == [0, 1, 2, 3]
    assert [node.asked for node in grid.nodes] == [[[0, 1], [2], [3]], [[2, 3], [3]]]


def test_a_device_that_is_lost_is_not_asked_again() -> None:
    gone = hello_then(lambda node, message: Message(Error(5, "gone"), reply_to=message), clients=[1])
    grid = FakeGrid(echo(1, clients=[0]), Node(2, answer=gone))
    fleet = FlowerFleet(grid)
    hello(fleet, num_clients=2)
    assert failures(ask(fleet, range(2))) == {1: "node 2: Flower error 5: gone"}
    assert [node.asked for node in grid.nodes] == [[[0]], [[1]]]


def test_a_missing_reply_is_a_failure() -> None:
    grid = FakeGrid(echo(1), Node(2, answer=hello_then(lambda node, message: None)))
    fleet = FlowerFleet(grid)
    hello(fleet)
    replies = ask(fleet, range(4), deadline_s=0.2)
    assert sorted(answered(replies)) == [0, 1]
    assert failures(replies) == dict.fromkeys((2, 3), "node 2 gave no reply within 0.2 s")


def test_a_reply_is_looked_for_more_seldom_the_longer_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    now = [0.0]

    def sleep(pause: float) -> None:
        pauses.append(pause)
        now[0] += pause

    monkeypatch.setattr(flower_fleet.time, "sleep", sleep)
    monkeypatch.setattr(flower_fleet.time, "monotonic", lambda: now[0])
    grid = FakeGrid(echo(1), Node(2, answer=hello_then(lambda node, message: None)))
    fleet = FlowerFleet(grid)
    hello(fleet)
    pauses.clear()
    replies = ask(fleet, range(4), deadline_s=100.0)
    assert sorted(answered(replies)) == [0, 1]
    assert sum(pauses) == pytest.approx(100.0)
    assert pauses[0] == flower_fleet.LOOK_LEAST_S
    assert max(pauses) == flower_fleet.LOOK_MOST_S
    assert len(pauses) < 350


@pytest.mark.parametrize(
    "content", [RecordDict(), RecordDict({"reply": _record(b"no bundle")})], ids=["empty", "noise"]
)
def test_a_reply_that_is_none_of_ours_fails_its_cohort_only(content: RecordDict) -> None:
    noise = Node(2, answer=hello_then(lambda node, message: Message(content, reply_to=message)))
    fleet = FlowerFleet(FakeGrid(echo(1), noise))
    hello(fleet)
    replies = ask(fleet, range(4))
    assert sorted(answered(replies)) == [0, 1]
    assert sorted(failures(replies)) == [2, 3]


@pytest.mark.parametrize(
    "content", [RecordDict(), RecordDict({"reply": _record(b"no bundle")})], ids=["empty", "noise"]
)
def test_a_node_that_garbles_hello_is_told_of_and_not_asked(
    content: RecordDict, caplog: pytest.LogCaptureFixture
) -> None:
    grid = FakeGrid(echo(1), Node(2, answer=lambda node, message: Message(content, reply_to=message)))
    fleet = FlowerFleet(grid)
    with caplog.at_level(logging.WARNING, "fedkd"):
        assert len(hello(fleet)) == 1
    assert "no hello from node 2" in caplog.text
    assert sorted(answered(ask(fleet, range(4)))) == [0, 1, 2, 3]
    assert grid.nodes[1].asked == []


def test_no_hello_from_anyone_ends_with_the_reason() -> None:
    grid = FakeGrid(Node(1, answer=lambda node, message: 1 / 0))  # type: ignore[arg-type, return-value]
    with pytest.raises(RunError, match="no Flower node answered hello: node 1: Flower error 2: ZeroDivisionError"):
        hello(FlowerFleet(grid))


def test_the_shared_part_is_one_record_for_all_messages() -> None:
    grid = FakeGrid(echo(1), echo(2))
    fleet = FlowerFleet(grid)
    hello(fleet)
    ask(fleet, range(4))
    shared = {id(message.content["common"]) for message in grid.sent if message.metadata.message_type == "train"}
    assert len(shared) == 1


# The real ClientApp, called as Flower calls it.


@pytest.mark.usefixtures("one_torch_thread", "no_report")
@pytest.mark.parametrize("clients_per_node", [1, 2, 10])
@pytest.mark.parametrize("preset", ["edgefd", "fd", "dsfl", "edgefd_views"])
def test_metrics_equal_those_of_the_local_fleet(preset: str, clients_per_node: int, tmp_path: Path) -> None:
    experiment = compose(overrides={"here": {**TINY, "preset": preset, "clients_per_node": clients_per_node}})
    here = start_run(experiment, tmp_path / "local")
    conduct_locally(here)
    grid = FakeGrid(*(Node(100 - i) for i in range(-(-10 // clients_per_node))))
    there = over(grid, start_run(experiment, tmp_path / "flower"))
    assert there.metrics_jsonl.read_bytes() == here.folder.metrics_jsonl.read_bytes()
    assert [len(cohort) for node in grid.nodes for cohort in node.asked] == [clients_per_node] * len(
        [cohort for node in grid.nodes for cohort in node.asked]
    )


@pytest.mark.usefixtures("one_torch_thread", "no_report")
def test_fewer_nodes_than_cohorts_and_nodes_that_change_do_not_show(tmp_path: Path) -> None:
    experiment = compose(overrides={"here": {**TINY, "rounds": 3}})
    here = start_run(experiment, tmp_path / "local")
    conduct_locally(here)
    # Three nodes of which one comes late: cohorts move, so states must be found by whoever is asked.
    grid = FakeGrid(Node(1), Node(2), arrivals=[[], [], [], [], [], [Node(3)]])
    there = over(grid, start_run(experiment, tmp_path / "flower"))
    assert there.metrics_jsonl.read_bytes() == here.folder.metrics_jsonl.read_bytes()
    assert {len(cohort) for cohort in grid.nodes[0].asked} == {5, 3}


@pytest.mark.usefixtures("one_torch_thread", "no_report")
@pytest.mark.parametrize("is_done", [False, True], ids=["before its work", "with its answer"])
def test_a_worker_that_is_lost_does_not_show(is_done: bool, tmp_path: Path) -> None:
    experiment = compose(overrides={"here": {**TINY, "rounds": 3}})
    here = start_run(experiment, tmp_path / "local")
    conduct_locally(here)
    turn = itertools.count()

    def often_lost(node: Node, message: Message) -> Message:
        is_lost = message.metadata.message_type != "query.hello" and next(turn) % 3 == 0
        if is_done or not is_lost:
            reply = node.run_client_app(message)  # whose states are written then
        return Message(Error(0, "ActorDiedError"), reply_to=message) if is_lost else reply

    grid = FakeGrid(Node(1), Node(2, answer=often_lost))
    there = over(grid, start_run(experiment, tmp_path / "flower"))
    assert there.metrics_jsonl.read_bytes() == here.folder.metrics_jsonl.read_bytes()
    assert len([cohort for cohort in grid.nodes[1].asked if len(cohort) < 5]) >= 2  # smaller, since dealt once more


@pytest.mark.usefixtures("one_torch_thread", "no_report")
def test_a_run_that_lost_its_grid_goes_on_over_new_nodes(tmp_path: Path) -> None:
    experiment = compose(overrides={"here": {**TINY, "rounds": 5, "checkpoint.every": 2}})
    here = start_run(experiment, tmp_path / "local")
    conduct_locally(here)
    broken = start_run(experiment, tmp_path / "flower")
    with pytest.raises(ConnectionError):
        over(FakeGrid(Node(1), Node(2), dies_at=3), broken)
    there = over(FakeGrid(Node(31), Node(32), Node(33)), open_run(broken.folder.path))
    assert there.metrics_jsonl.read_bytes() == here.folder.metrics_jsonl.read_bytes()


@pytest.mark.usefixtures("one_torch_thread", "no_report")
def test_a_deployment_keeps_states_where_each_node_says(tmp_path: Path) -> None:
    experiment = compose(overrides={"here": TINY})
    here = start_run(experiment, tmp_path / "local")
    conduct_locally(here)
    nodes = [
        Node(i, {"client-ids": ids, "state-root": str(tmp_path / f"device-{i}"), "device-name": f"pi-{i}"})
        for i, ids in enumerate(("0,1,2,3", "4,5,6,7,8,9"))
    ]
    there = over(FakeGrid(*nodes), start_run(experiment, tmp_path / "flower"))
    assert there.metrics_jsonl.read_bytes() == here.folder.metrics_jsonl.read_bytes()
    assert [sorted({tuple(cohort) for cohort in node.asked}) for node in nodes] == [
        [(0, 1, 2, 3)],
        [(4, 5, 6, 7, 8, 9)],
    ]
    assert list(there.state.iterdir()) == []
    assert all(list((tmp_path / f"device-{i}").rglob("*.safetensors")) for i in (0, 1))


@pytest.mark.usefixtures("one_torch_thread", "no_report")
def test_rounds_are_train_messages_and_set_up_is_queries(tmp_path: Path) -> None:
    grid = FakeGrid(Node(1))
    over(grid, start_run(compose(overrides={"here": {**TINY, "rounds": 1}}), tmp_path / "flower"))
    assert grid.nodes[0].kinds == ["query.hello", "query.contribute", "query.proxy", "train", "train"]


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take longer than these runs."""
    monkeypatch.setattr("fedkd.runner.write_report", lambda folder: None)


def over(grid: FakeGrid, run: Any) -> RunFolder:
    with FlowerFleet(grid, clients_per_node=run.experiment.core.clients_per_node) as fleet:  # type: ignore[arg-type]
        conduct(run, fleet, engine="flower")
    folder: RunFolder = run.folder
    return folder


def first(times: int, answer: Callable[[Node, Message], Any], *, then: Node) -> Callable[[Node, Message], Any]:
    turn = itertools.count()
    return lambda node, message: answer(node, message) if next(turn) < times else then.handle(message)


def hello_then(then: Callable[[Node, Message], Any], *, clients: list[int] | None = None) -> Answer:
    greeter = echo(0, clients=clients)
    return lambda node, message: (
        greeter.handle(message) if message.metadata.message_type == "query.hello" else then(node, message)
    )


def hello(fleet: FlowerFleet, *, num_clients: int = 10) -> list[Parcel]:
    job = {"experiment": {"num_clients": num_clients}, "state_root": "/nowhere", "partition": ""}
    return fleet.hello(Request(kind=HELLO, shared=Parcel({"job": job}), clients={}), deadline_s=5.0)


def ask(fleet: FlowerFleet, clients: Iterable[int], *, deadline_s: float = 5.0) -> list[CohortReply]:
    request = Request(kind=ROUND, shared=Parcel(), clients={client: Parcel() for client in clients})
    return list(fleet.broadcast(request, deadline_s=deadline_s))

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedkd.errors import BadReplyError, StateError
from fedkd.federation import host as module
from fedkd.federation.host import ClientHost
from fedkd.federation.messages import CONTRIBUTE, HELLO, Job, Request, RoundRequest
from fedkd.federation.preflight import preflight
from fedkd.federation.store import StateRef
from fedkd.federation.wire import Bundle, Parcel, pack, unpack
from fedkd.federation.workspace import Node, Workspace
from fedkd.rows import Knowledge
from tests.harness import experiment

pytestmark = pytest.mark.usefixtures("one_torch_thread")
NOBODY = pack(Bundle(HELLO, Parcel()))


@pytest.fixture
def job_of(tmp_path: Path) -> Callable[..., Job]:
    def build(**changes: Any) -> Job:
        chosen = experiment("local_only", {"num_clients": 5, **changes})
        preflight(chosen).partition.save(tmp_path / "partition.npz")
        return Job(
            experiment=chosen.flat(), state_root=str(tmp_path / "state"), partition=str(tmp_path / "partition.npz")
        )

    return build


def say(host: ClientHost, request: Request, clients: list[int]) -> Bundle:
    return unpack(host.handle(request.common(), request.cohort(clients)))


def round_request(job: Job, round_id: int, states: dict[int, StateRef | None], *, durable: bool = False) -> Request:
    request = RoundRequest(
        job=job,
        round_id=round_id,
        closing=False,
        evaluate=False,
        wants_share=False,
        durable=durable,
        keep=tuple({ref.file.partition("/")[0] for ref in states.values() if ref is not None}),
        proxy_version="",
        asked=None,
        knowledge=Knowledge(),
        states={client: (None, ref) for client, ref in states.items()},
    )
    return request.to_request(Workspace(job, Node()).downlink)


def refs(bundle: Bundle) -> dict[int, StateRef]:
    return {client: StateRef(*parcel.header["ref"]) for client, parcel in bundle.clients.items()}


def test_hello_names_partition_and_versions(job_of: Callable[..., Job]) -> None:
    job = job_of()
    request = Request(kind=HELLO, shared=Parcel({"job": job.to_json()}), clients={})
    header = unpack(ClientHost().handle(request.common(), NOBODY)).shared.header
    assert header["partition"] == Workspace(job, Node()).partition.digest
    assert header["clients"] is None
    assert header["versions"].keys() == {"fedkd", "torch", "numpy"}
    at_home = ClientHost(Node(client_ids=(3,)))
    header = unpack(at_home.handle(request.common(), NOBODY)).shared.header
    assert header["clients"] == [3]
    assert header["rows"] == {"3": len(Workspace(job, Node()).data(3).train)}


@pytest.mark.parametrize(
    ("common", "words"),
    [
        (Bundle("dance", Parcel({"job": {"experiment": {}, "state_root": "", "partition": ""}})), "of kind 'dance'"),
        (Bundle("round", Parcel()), "of kinds 'round' and 'dance'"),
        (Bundle("dance", Parcel()), "request carries no job"),
    ],
)
def test_requests_that_make_no_sense_are_refused(common: Bundle, words: str) -> None:
    with pytest.raises(BadReplyError, match=words):
        ClientHost().handle(pack(common), pack(Bundle("dance", Parcel())))


def test_a_state_that_is_nowhere_fails_its_client_alone(job_of: Callable[..., Job]) -> None:
    host, job = ClientHost(), job_of()
    reply = say(host, round_request(job, 0, {0: None, 1: StateRef("", "ab" * 16)}), [0, 1])
    assert "ref" in reply.clients[0].header
    assert "state abababab cannot be read" in reply.clients[1].header["failure"]


def test_a_resident_state_is_used_and_a_later_message_for_an_older_one_reads_it(job_of: Callable[..., Job]) -> None:
    host, job = ClientHost(), job_of()
    first = refs(say(host, round_request(job, 0, {0: None}), [0]))
    second = refs(say(host, round_request(job, 1, {0: first[0]}), [0]))
    assert second[0].digest != first[0].digest
    again = refs(say(host, round_request(job, 1, {0: first[0]}), [0]))  # as after a reply that was lost
    assert again == second
    elsewhere = refs(say(ClientHost(), round_request(job, 1, {0: first[0]}), [0]))
    assert elsewhere == second


def test_states_that_are_not_written_through_are_written_when_durable(job_of: Callable[..., Job]) -> None:
    host, job = ClientHost(write_through=False), job_of()
    first = refs(say(host, round_request(job, 0, {0: None, 1: None}), [0, 1]))
    assert {ref.file for ref in first.values()} == {""}
    second = refs(say(host, round_request(job, 1, dict(first), durable=True), [0, 1]))
    assert len({ref.file for ref in second.values()}) == 1
    assert Workspace(job, Node()).store.read(second[1], 1).keys() == {"student", "optimizer"}
    with pytest.raises(StateError, match="it was never written"):
        Workspace(job, Node()).store.read(first[1], 1)


def test_a_worker_keeps_the_clients_it_served_last(job_of: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESIDENT_CLIENTS", 2)
    host, job = ClientHost(), job_of()
    read: list[int] = []
    store = type(Workspace(job, Node()).store)
    original = store.read
    monkeypatch.setattr(store, "read", lambda self, ref, client: read.append(client) or original(self, ref, client))
    states: dict[int, StateRef] = {}
    for client in range(4):
        states |= refs(say(host, round_request(job, 0, {client: None}), [client]))
    for client in (3, 2, 0, 2):
        say(host, round_request(job, 1, {client: states[client]}), [client])
    assert read == [0, 2]  # 2 and 3 were there; 0 came back and pushed 3 out; 2 had moved on and is read as it was
    read.clear()
    say(host, round_request(job, 1, dict(states)), [0, 1, 2, 3])  # a cohort is kept whole
    newest = refs(say(host, round_request(job, 1, dict(states)), [0, 1, 2, 3]))
    read.clear()
    say(host, round_request(job, 2, dict(newest)), [0, 1, 2, 3])
    assert read == []


def test_a_state_in_memory_alone_is_never_forgotten(
    job_of: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESIDENT_CLIENTS", 1)
    host, job = ClientHost(write_through=False), job_of()
    states: dict[int, StateRef] = {}
    for client in range(4):
        states |= refs(say(host, round_request(job, 0, {client: None}), [client]))
    for client in range(4):
        reply = say(host, round_request(job, 1, {client: states[client]}), [client])
        assert "failure" not in reply.clients[client].header


def test_another_run_starts_from_nothing(job_of: Callable[..., Job]) -> None:
    host = ClientHost(write_through=False)
    first = refs(say(host, round_request(job_of(), 0, {0: None}), [0]))
    reply = say(host, round_request(job_of(seed=1), 1, {0: first[0]}), [0])
    assert "it was never written" in reply.clients[0].header["failure"]


def test_what_cannot_travel_fails_its_client_alone(job_of: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(preset="edgefd")
    original = Workspace.contribution

    def odd(self: Workspace, client_id: int) -> Any:
        given, kept = original(self, client_id)
        return (type(given)(given.x.astype(complex), given.y) if client_id == 1 else given), kept

    monkeypatch.setattr(Workspace, "contribution", odd)
    request = Request(kind=CONTRIBUTE, shared=Parcel({"job": job.to_json()}), clients={0: Parcel(), 1: Parcel()})
    reply = say(ClientHost(), request, [0, 1])
    assert reply.clients[0].arrays["x"].shape[1:] == (1, 8, 8)
    assert reply.clients[1].header == {"failure": "array 'x' is complex128, expected whole numbers, floats or booleans"}

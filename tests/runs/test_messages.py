"""What the messages of whole runs hold: bytes, and nothing that a client must not give away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkd import metric_names as m
from fedkd.federation.checkpoint import Checkpoints
from fedkd.federation.messages import Job
from fedkd.federation.store import StateStore
from fedkd.federation.wire import Parcel
from fedkd.federation.workspace import Node, Workspace
from fedkd.types import Array
from tests.harness import Message, WatchedFleet, events, experiment, watch

CLASSES = 10
# The hidden layer has a width that no number of rows in these runs comes to.
CHANGES: dict[str, Any] = {"num_clients": CLASSES, "model.hidden": 37, "proxy.fraction": 0.2}


@pytest.fixture(scope="module")
def edgefd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, WatchedFleet]:
    out = tmp_path_factory.mktemp("edgefd") / "run"
    return out, watch(experiment("edgefd", CHANGES), out)


def arrays_of(message: Message) -> Iterator[tuple[str, Array]]:
    """Every array of a message and of its replies, with a name for people."""
    parcels: list[tuple[str, Parcel]] = [("shared", message.shared)]
    parcels += [(f"to {client}", parcel) for client, parcel in message.clients.items()]
    parcels += [(f"from {client}", answer) for client, answer in message.answers().items()]
    parcels += [("from a worker", reply.shared) for reply in message.replies]
    for where, parcel in parcels:
        for name, array in parcel.arrays.items():
            yield f"{message.kind} {message.round_id} {where}: {name}", array


def test_uplink_is_what_was_accepted_and_what_was_sent(edgefd: tuple[Path, WatchedFleet]) -> None:
    out, fleet = edgefd
    setting = Checkpoints(out / "checkpoints").load_setting()
    assert setting is not None
    numbers = events(out)
    *rounds, closing = fleet.rounds()
    assert len(rounds) == 3
    for message in rounds:
        counted = numbers[message.round_id or 0][m.UPLINK_PER_CLIENT]
        for client_id, answer in message.answers().items():
            sent = sum(array.nbytes for name, array in answer.arrays.items() if not name.startswith("table/"))
            accepted = int(setting.accepted[client_id].sum())
            assert counted[client_id] == sent == accepted * (4 * CLASSES + 4) > 0
        assert numbers[message.round_id or 0][m.UPLINK_BYTES] == sum(counted)
    assert closing.round_id == 3
    assert numbers[3][m.UPLINK_BYTES] == 0


def test_downlink_is_what_was_sent(edgefd: tuple[Path, WatchedFleet]) -> None:
    out, fleet = edgefd
    numbers = events(out)
    sent = [message.shared.nbytes * CLASSES for message in fleet.rounds()]
    assert sent[0] == 0 < sent[1]
    assert [numbers[message.round_id or 0][m.DOWNLINK_BYTES] for message in fleet.rounds()] == sent


def test_edgefd_sends_less_than_everything_by_what_it_rejects(
    edgefd: tuple[Path, WatchedFleet], tmp_path: Path
) -> None:
    watch(experiment("fedmd_sfd", CHANGES), tmp_path / "all")
    filtered, everything = events(edgefd[0]), events(tmp_path / "all")
    accept_rate = filtered[-1][m.ACCEPT_RATE]
    assert 0 < accept_rate < 0.5
    for round_id in range(3):
        share = filtered[round_id][m.UPLINK_BYTES] / everything[round_id][m.UPLINK_BYTES]
        assert share == pytest.approx(accept_rate, rel=1e-9)


def test_nothing_in_a_message_has_the_shape_of_a_parameter(edgefd: tuple[Path, WatchedFleet]) -> None:
    out, fleet = edgefd
    progress = Checkpoints(out / "checkpoints").load()
    assert progress is not None
    state = StateStore(out / "state").read(progress.refs[0], 0)
    shapes = {tuple(tensor.shape) for tensor in state["student"].values()}
    assert shapes == {(37, 64), (37,), (10, 37), (10,)}
    found = [name for message in fleet.messages for name, array in arrays_of(message) if array.shape in shapes]
    assert found == []


def test_no_message_after_the_set_up_holds_a_private_sample(edgefd: tuple[Path, WatchedFleet]) -> None:
    _, fleet = edgefd
    here = Workspace(Job.from_json(fleet.messages[0].shared.header["job"]), Node())
    private = [row.tobytes() for client in range(CLASSES) for row in here.data(client).train.x]
    contributed = {row.tobytes() for client in range(CLASSES) for row in here.contribution(client)[0].x}
    assert len(private) > 1000
    assert not contributed & set(private)
    in_set_up = b"".join(array.tobytes() for message in fleet.messages[:2] for _, array in arrays_of(message))
    afterwards = b"".join(array.tobytes() for message in fleet.messages[2:] for _, array in arrays_of(message))
    assert all(sample in in_set_up for sample in contributed)  # the search finds what is there
    assert not any(sample in in_set_up for sample in private)
    assert not any(sample in afterwards for sample in (*private, *contributed))


def test_no_label_and_no_contributor_goes_down(edgefd: tuple[Path, WatchedFleet]) -> None:
    _, fleet = edgefd
    contribute, proxy, *rounds = fleet.messages
    assert (contribute.kind, proxy.kind) == ("contribute", "proxy")
    assert contribute.shared.arrays == {}
    assert {name for parcel in contribute.clients.values() for name in parcel.arrays} == set()
    assert proxy.shared.arrays.keys() == {"x"}
    assert proxy.shared.header.keys() == {"job", "proxy_version"}
    for parcel in proxy.clients.values():
        assert (parcel.header, parcel.arrays.keys()) == ({}, {"own_ids"})
    for message in rounds:
        assert set(message.shared.arrays) <= {"knowledge/0/ids", "knowledge/0/values", "knowledge/0/column/voters"}
        assert all(parcel.arrays == {} for parcel in message.clients.values())
        assert all(parcel.header.keys() == {"refs", "rows"} for parcel in message.clients.values())


def test_own_ids_reach_their_owner_alone(edgefd: tuple[Path, WatchedFleet]) -> None:
    proxy = edgefd[1].messages[1]
    own = {client: set(parcel.arrays["own_ids"].tolist()) for client, parcel in proxy.clients.items()}
    assert all(own.values())
    assert sum(map(len, own.values())) == len(set.union(*own.values())) == len(proxy.shared.arrays["x"])


def test_answers_for_single_clients_reach_them_alone(tmp_path: Path) -> None:
    out = tmp_path / "run"
    fleet = watch(experiment("fd", {"num_clients": 5}), out)
    first, *rest = fleet.rounds()
    assert all(parcel.arrays == {} for parcel in first.clients.values())
    for before, message in zip(fleet.rounds(), rest, strict=False):
        assert message.shared.arrays == {}
        said = {client: answer.arrays for client, answer in before.answers().items()}
        for client, parcel in message.clients.items():
            # Classes that only the others hold, each with the mean of those who spoke for it: here one other client.
            ids, values = parcel.arrays["knowledge/0/ids"], parcel.arrays["knowledge/0/values"]
            others = {i: arrays for i, arrays in said.items() if i != client}
            expected = {
                int(label): row
                for arrays in others.values()
                for label, row in zip(arrays["share/0/ids"], arrays["share/0/values"], strict=True)
            }
            assert ids.tolist() == sorted(expected)
            np.testing.assert_allclose(values, np.stack([expected[label] for label in sorted(expected)]), rtol=1e-5)

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkd import metric_names as m
from fedkd.errors import RunError
from fedkd.federation.fleet import CohortReply
from fedkd.federation.local_fleet import LocalFleet
from fedkd.federation.messages import ClientFailure, Job
from fedkd.federation.preflight import preflight
from fedkd.federation.set_up import SetUp
from fedkd.federation.setting import Setting
from fedkd.federation.wire import Parcel
from fedkd.federation.workspace import Node, Workspace
from tests.harness import Message, WatchedFleet, experiment

Spoil = Callable[[Message, CohortReply], CohortReply]
CLIENTS = 5


class Stage:
    """A set-up over a watched fleet, and what it said."""

    def __init__(self, folder: Path, changes: Mapping[str, Any], spoil: Spoil) -> None:
        chosen = experiment("edgefd", {"num_clients": CLIENTS, **changes})
        self.plan = preflight(chosen)
        path = folder / "partition.npz"
        self.plan.partition.save(path)
        self.job = Job(experiment=chosen.flat(), state_root=str(folder / "state"), partition=str(path))
        self.fleet = WatchedFleet(LocalFleet(clients_per_node=2), spoil=spoil)
        self.set_up = SetUp(chosen, self.fleet, self.job, self.plan)

    def run(self) -> tuple[Setting, dict[str, Any]]:
        with self.fleet:
            setting, numbers, _ = self.set_up.run()
        return setting, numbers

    @property
    def contribute(self) -> Message:
        return self.fleet.messages[0]

    @property
    def proxy(self) -> Message:
        return self.fleet.messages[1]


def unspoiled(message: Message, reply: CohortReply) -> CohortReply:
    return reply


@pytest.fixture
def stage(tmp_path: Path) -> Callable[..., Stage]:
    def build(changes: Mapping[str, Any] | None = None, spoil: Spoil = unspoiled) -> Stage:
        return Stage(tmp_path, changes or {}, spoil)

    return build


def test_own_ids_go_to_their_owner_alone(stage: Callable[..., Stage]) -> None:
    scene = stage()
    setting, _ = scene.run()
    assert setting.proxy is not None
    assert scene.proxy.shared.arrays.keys() == {"x"}
    assert not set(scene.proxy.shared.header) - {"job", "proxy_version"}
    every = []
    here = Workspace(scene.job, Node())
    for client_id, parcel in scene.proxy.clients.items():
        assert parcel.header == {}
        assert parcel.arrays.keys() == {"own_ids"}
        own = parcel.arrays["own_ids"]
        every.append(own)
        given = here.contribution(client_id)[0]
        assert sorted(row.tobytes() for row in setting.proxy.x[own]) == sorted(row.tobytes() for row in given.x)
    assert np.sort(np.concatenate(every)).tolist() == list(range(len(setting.proxy)))


def test_the_proxy_is_shuffled_and_everyone_gets_the_same_order(stage: Callable[..., Stage]) -> None:
    scene = stage()
    setting, _ = scene.run()
    assert setting.proxy is not None
    np.testing.assert_array_equal(scene.proxy.shared.arrays["x"], setting.proxy.x)
    owners = np.empty(len(setting.proxy), int)
    for client_id, parcel in scene.proxy.clients.items():
        owners[parcel.arrays["own_ids"]] = client_id
    assert (np.diff(owners) != 0).sum() > len(owners) / 2  # in the order of the clients there would be four changes


def test_the_order_follows_the_seed(stage: Callable[..., Stage]) -> None:
    first, again, other = (stage({"seed": seed}).run()[0] for seed in (0, 0, 1))
    assert first.version == again.version != other.version
    assert first.proxy is not None
    assert again.proxy is not None
    np.testing.assert_array_equal(first.proxy.x, again.proxy.x)


def test_labels_stay_with_the_coordinator(stage: Callable[..., Stage]) -> None:
    scene = stage()
    setting, _ = scene.run()
    whole = scene.plan.dataset.train
    known = {row.tobytes(): label for row, label in zip(whole.x, whole.labels, strict=True)}
    assert setting.proxy is not None
    assert setting.labels is not None
    assert [known[row.tobytes()] for row in setting.proxy.x] == setting.labels.tolist()
    assert setting.proxy.y is None
    assert "y" not in scene.proxy.shared.arrays


def test_only_the_oracle_is_shown_labels(stage: Callable[..., Stage]) -> None:
    scene = stage({"filter.name": "oracle"})
    setting, _ = scene.run()
    np.testing.assert_array_equal(scene.proxy.shared.arrays["groups"], setting.labels)


def test_without_diagnostics_no_label_is_sent_at_all(stage: Callable[..., Stage]) -> None:
    scene = stage({"proxy.diagnostics": False})
    setting, _ = scene.run()
    assert setting.labels is None
    assert {name for answer in scene.contribute.answers().values() for name in answer.arrays} == {"x"}


def test_masks_and_states_are_kept_by_client(stage: Callable[..., Stage]) -> None:
    setting, numbers = stage().run()
    assert setting.accepted.keys() == setting.refs.keys() == set(range(CLIENTS))
    assert setting.proxy is not None
    assert {len(mask) for mask in setting.accepted.values()} == {len(setting.proxy)} == {numbers[m.PROXY_SAMPLES]}
    assert len(numbers[m.THRESHOLD]) == CLIENTS


def test_set_up_bytes_are_those_of_the_messages(stage: Callable[..., Stage]) -> None:
    scene = stage()
    setting, numbers = scene.run()
    assert setting.proxy is not None
    samples = len(setting.proxy)
    assert numbers[m.SETUP_UPLINK_BYTES] == samples * (64 * 4 + 8)  # pixels and a label
    assert numbers[m.SETUP_DOWNLINK_BYTES] == CLIENTS * samples * 64 * 4 + samples * 4  # the set for each, and own ids


def test_an_experiment_without_a_proxy_sends_nothing(stage: Callable[..., Stage]) -> None:
    scene = stage({"preset": "fd"})
    setting, _ = scene.run()
    assert setting.proxy is None
    assert scene.fleet.messages == []


def spoiled(kind: str, client: int, change: Callable[[Parcel], Parcel | ClientFailure]) -> Spoil:
    def spoil(message: Message, reply: CohortReply) -> CohortReply:
        if message.kind != kind or client not in reply.clients:
            return reply
        answer = reply.clients[client]
        assert isinstance(answer, Parcel)
        return replace(reply, clients={**reply.clients, client: change(answer)})

    return spoil


def with_arrays(**arrays: np.ndarray) -> Callable[[Parcel], Parcel]:
    return lambda parcel: Parcel(parcel.header, {**parcel.arrays, **arrays})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: ClientFailure(3, "out of memory"), "client 3 could not contribute to the proxy set: out of memory"),
        (lambda _: Parcel(), "client 3: contribution has no array x"),
        (
            with_arrays(x=np.zeros((4, 9), np.float32), labels=np.zeros(4, int)),
            r"client 3: inputs are x \(9,\) float32, expected x \(1, 8, 8\) float32",
        ),
        (
            with_arrays(x=np.zeros((1, 1, 8, 8), np.float32), labels=np.array([10])),
            "client 3: labels are not all within 0 and 9",
        ),
    ],
)
def test_a_bad_contribution_costs_its_client_alone(
    stage: Callable[..., Stage], caplog: pytest.LogCaptureFixture, change: Any, words: str
) -> None:
    with caplog.at_level(logging.WARNING):
        scene = stage(spoil=spoiled("contribute", 3, change))
        setting, _ = scene.run()
    assert len(scene.proxy.clients[3].arrays["own_ids"]) == 0
    assert setting.accepted.keys() == set(range(CLIENTS))  # it may use the set of the others
    assert setting.labels is not None
    assert setting.labels.max() <= 9
    assert any(re.search(words, message) for message in caplog.messages)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: ClientFailure(1, "out of memory"), "client 1 could not filter the proxy set: out of memory"),
        (lambda parcel: Parcel({**parcel.header, "size": 8}, parcel.arrays), "client 1: set-up reply lacks or garbles"),
        (
            lambda parcel: Parcel({**parcel.header, "size": 8}, {**parcel.arrays, "accepted": np.zeros(1, np.uint8)}),
            "client 1: mask is over 8 samples, expected",
        ),
    ],
)
def test_a_bad_mask_costs_its_client_alone(
    stage: Callable[..., Stage], caplog: pytest.LogCaptureFixture, change: Any, words: str
) -> None:
    with caplog.at_level(logging.WARNING):
        setting, numbers = stage(spoil=spoiled("proxy", 1, change)).run()
    assert setting.accepted.keys() == setting.refs.keys() == {0, 2, 3, 4}
    assert [threshold is None for threshold in numbers[m.THRESHOLD]] == [False, True, False, False, False]
    assert any(words in message for message in caplog.messages)


def test_when_all_fail_the_reasons_are_told(stage: Callable[..., Stage]) -> None:
    def fail(message: Message, reply: CohortReply) -> CohortReply:
        return replace(reply, clients={i: ClientFailure(i, f"reason {i}") for i in reply.clients})

    with pytest.raises(RunError, match="no client could contribute to the proxy set: client 0: reason 0; client 1: "):
        stage(spoil=fail).run()


def test_a_worker_with_another_partition_is_refused(stage: Callable[..., Stage], tmp_path: Path) -> None:
    scene = stage()
    scene.set_up.hello()
    other = stage({"num_clients": 2})  # overwrites the partition file
    assert other.plan.partition.digest != scene.plan.partition.digest
    fleet = LocalFleet()
    with fleet, pytest.raises(RunError, match="give all workers the same run folder"):
        SetUp(scene.set_up.experiment, fleet, scene.job, scene.plan).hello()

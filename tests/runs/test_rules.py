"""The rules by which clients choose from the proxy set, in whole runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkd import runner
from fedkd.errors import RunError
from fedkd.federation.checkpoint import Checkpoints
from fedkd.federation.fleet import CohortReply
from fedkd.federation.messages import ClientFailure
from fedkd.federation.wire import Parcel
from tests.harness import Message, StoppedError, digests, experiment, metrics, watch

NEAREST: dict[str, Any] = {"num_clients": 5, "filter.rule": "nearest"}


def masks(out: Path) -> dict[int, np.ndarray]:
    setting = Checkpoints(out / "checkpoints").load_setting()
    assert setting is not None
    return dict(setting.accepted)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("straight") / "run"
    watch(experiment("edgefd", NEAREST), out)
    return out


def test_nearest_gives_every_sample_one_voice(straight: Path, tmp_path: Path) -> None:
    fleet = watch(experiment("edgefd", NEAREST), tmp_path / "run")
    chosen = masks(tmp_path / "run")
    assert (np.stack(list(chosen.values())).sum(axis=0) == 1).all()
    contribute, proxy, assign, *rounds = fleet.messages
    assert (contribute.kind, proxy.kind, assign.kind) == ("contribute", "proxy", "assign")
    assert assign.shared.arrays == {}  # nobody is told who speaks for a sample but whoever does
    for client, parcel in assign.clients.items():
        assert parcel.arrays.keys() == {"accepted"}
        np.testing.assert_array_equal(np.unpackbits(parcel.arrays["accepted"], count=len(chosen[0])), chosen[client])
    for message in rounds[:-1]:
        for client, answer in message.answers().items():
            np.testing.assert_array_equal(answer.arrays["share/0/ids"], np.flatnonzero(chosen[client]))
    assert metrics(tmp_path / "run") == metrics(straight)


@pytest.mark.parametrize("stop", [{"stop_before": 2}, {"stop_after": 2}, {"stop_before": 4}], ids=str)
def test_nearest_survives_a_stop(stop: dict[str, int], straight: Path, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        watch(experiment("edgefd", {**NEAREST, "checkpoint.every": 1}), tmp_path / "run", **stop)
    runner.resume(tmp_path / "run")
    assert metrics(tmp_path / "run") == metrics(straight)
    assert digests(tmp_path / "run") == digests(straight)


def test_a_client_that_does_not_take_over_its_samples_is_left_out(tmp_path: Path) -> None:
    def fail(message: Message, reply: CohortReply) -> CohortReply:
        lost = {2: ClientFailure(2, "no memory")} if message.kind == "assign" else {}
        return replace(reply, clients={**reply.clients, **lost})

    fleet = watch(experiment("edgefd", NEAREST), tmp_path / "run", spoil=fail)
    assert all(message.clients.keys() == {0, 1, 3, 4} for message in fleet.rounds())
    assert (np.stack(list(masks(tmp_path / "run").values())).sum(axis=0) <= 1).all()


def test_without_margins_nobody_can_be_nearest(tmp_path: Path) -> None:
    def strip(message: Message, reply: CohortReply) -> CohortReply:
        if message.kind != "proxy":
            return reply
        clients: dict[int, Parcel | ClientFailure] = {}
        for client, answer in reply.clients.items():
            assert isinstance(answer, Parcel)
            clients[client] = Parcel(answer.header, {n: a for n, a in answer.arrays.items() if n != "margin"})
        return replace(reply, clients=clients)

    with pytest.raises(RunError, match=r"no margins, which filter.rule = 'nearest' compares"):
        watch(experiment("edgefd", NEAREST), tmp_path / "run", spoil=strip)


def test_soft_weights_travel_and_stay_within_bounds(tmp_path: Path) -> None:
    fleet = watch(experiment("edgefd", {"num_clients": 5, "filter.rule": "soft"}), tmp_path / "run")
    chosen = masks(tmp_path / "run")
    for message in fleet.rounds()[:-1]:
        assert message.answers().keys() == set(range(5))
        for client, answer in message.answers().items():
            weight = answer.arrays["share/0/weight"]
            assert len(weight) == chosen[client].sum()
            assert (weight > 0).all()
            assert (weight <= 1).all()
            assert len(np.unique(weight)) > 1

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedkd.data.base import Samples
from fedkd.errors import StateError
from fedkd.federation.messages import Job
from fedkd.federation.preflight import preflight
from fedkd.federation.workspace import Node, Workspace, version_of
from fedkd.methods.base import DeviceProfile
from tests.harness import experiment


@pytest.fixture
def job(tmp_path: Path) -> Job:
    chosen = experiment("edgefd", {"num_clients": 5})
    path = tmp_path / "partition.npz"
    preflight(chosen).partition.save(path)
    return Job(experiment=chosen.flat(), state_root=str(tmp_path / "state"), partition=str(path))


PROXY = Samples(np.arange(12, dtype=np.float32).reshape(3, 4), np.array([2, 0, 1]))


def test_contributions_and_private_data_are_disjoint_and_whole(job: Job) -> None:
    here = Workspace(job, Node())
    for client_id in range(5):
        given, kept = here.contribution(client_id)
        whole = here.dataset.train.take(here.partition.indices[client_id])
        assert len(given) == round(0.1 * len(whole))
        assert sorted(row.tobytes() for part in (given, kept) for row in part.x) == sorted(r.tobytes() for r in whole.x)
        np.testing.assert_array_equal(here.data(client_id).train.x, kept.x)
        assert len(here.data(client_id).test) == len(here.dataset.test)


def test_a_proxy_set_is_found_by_another_process(job: Job) -> None:
    version = version_of(PROXY)
    Workspace(job, Node()).keep_proxy(version, PROXY)
    found = Workspace(job, Node()).proxy_samples(version)
    np.testing.assert_array_equal(found.x, PROXY.x)
    np.testing.assert_array_equal(found.labels, PROXY.labels)


def test_a_proxy_set_that_is_missing_damaged_or_another_is_refused(job: Job) -> None:
    version = version_of(PROXY)
    Workspace(job, Node()).keep_proxy(version, PROXY)
    path = next(Path(job.state_root).glob("setup/proxy-*"))
    whole = path.read_bytes()
    with pytest.raises(StateError, match=r"proxy set 00000000 cannot be read from .*; run anew"):
        Workspace(job, Node()).proxy_samples("0" * 32)
    path.write_bytes(whole[:-4])
    with pytest.raises(StateError, match="cannot be read from"):
        Workspace(job, Node()).proxy_samples(version)
    changed = bytearray(whole)
    at = whole.index(PROXY.x.tobytes())
    changed[at + 3] ^= 1
    path.write_bytes(bytes(changed))
    with pytest.raises(StateError, match="holds another proxy set than"):
        Workspace(job, Node()).proxy_samples(version)


def test_the_version_is_that_of_the_inputs() -> None:
    assert version_of(PROXY) == version_of(Samples(PROXY.x.copy()))
    assert version_of(PROXY) != version_of(Samples(PROXY.x[::-1]))
    assert version_of(PROXY) != version_of(Samples(PROXY.x.reshape(4, 3)))


def test_a_node_has_roots_of_its_own(job: Job, tmp_path: Path) -> None:
    here = Workspace(job, Node(state_root=str(tmp_path / "mine"), data_root="data", profile=DeviceProfile(name="pi")))
    run = Path(job.state_root).parent.name
    assert here.store.root == tmp_path / "mine" / run  # a device serves many runs, each in a folder of its own
    assert here.experiment.data.root == "data"


def test_streams_of_a_client_are_its_own(job: Job) -> None:
    here = Workspace(job, Node())

    def draw(client_id: int, round_id: int, name: str) -> tuple[float, float]:
        ctx = here.context(client_id, round_id=round_id, closing=False, proxy=None)
        with ctx.torch_rng(name):
            drawn = torch.rand(1).item()
        return ctx.rng(name).random(), drawn

    outside = torch.random.get_rng_state()
    draws = [draw(*key) for key in ((0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"))]
    assert len({numpy for numpy, _ in draws}) == len({drawn for _, drawn in draws}) == 4
    assert draw(0, 0, "a") == draws[0]
    assert torch.equal(torch.random.get_rng_state(), outside)

"""Sweeps over Ray: what can be told without a cluster. tests/e2e/test_ray_cluster.py has one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fedkd.errors import RunError
from fedkd.sweep import ray_pool
from fedkd.sweep.plan import Cell
from fedkd.sweep.ray_pool import run_on_ray

CELLS = [Cell(labels={"seed": str(seed)}, values={"seed": seed}, origin="the test") for seed in range(3)]


@pytest.mark.e2e
@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:none"])
def test_a_cluster_that_is_not_there_is_told_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="sweeps over Ray need the extra 'simulation'")
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(RunError, match=f"no Ray cluster at {address}: .*; check RAY_ADDRESS"):
        list(run_on_ray([], cpus=1, gpus=0))


class RayError(Exception):
    """Ray's error."""


class FakeRay:
    """A cluster whose nodes leave: `ends` cells end, the rest never does."""

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, *nodes: dict[str, float], ends: int = 3, lost: int | None = None) -> None:
        self.alive = list(nodes)
        self.ends = ends
        self.lost = lost  # this cell's process died too often
        self.options: dict[str, Any] = {}

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": has} for has in self.alive] + [{"Alive": False, "Resources": {}}]

    def remote(self, **options: Any) -> Any:
        self.options = options
        return lambda function: SimpleNamespace(remote=lambda job: job["values"]["seed"])

    def wait(self, waiting: list[int], *, num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        ready = [seed for seed in waiting if seed < self.ends][:1]
        if not ready:
            self.alive = []
        return ready, waiting

    def get(self, seed: int) -> dict[str, int]:
        if seed == self.lost:
            raise RayError("The worker died\nwith much advice")
        return {"seed": seed}


def run(ray: FakeRay, monkeypatch: pytest.MonkeyPatch, *, cpus: float = 1, gpus: float = 0) -> list[Any]:
    monkeypatch.setattr(ray_pool, "need", lambda *_, **__: ray)
    monkeypatch.setattr(ray_pool, "NO_ROOM_S", 0.01)
    return [answer for _, answer in run_on_ray(CELLS, cpus=cpus, gpus=gpus)]


def test_every_cell_s_result_comes_back_and_a_lost_one_is_tried_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay({"CPU": 1.0})
    assert run(ray, monkeypatch) == [{"seed": 0}, {"seed": 1}, {"seed": 2}]
    assert ray.options == {"num_cpus": 1, "num_gpus": 0, "max_retries": ray_pool.RETRIES}


def test_a_cell_that_ends_every_process_costs_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(FakeRay({"CPU": 1.0}, lost=1), monkeypatch) == [{"seed": 0}, "RayError: The worker died", {"seed": 2}]


def test_a_cell_must_fit_on_one_node(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "one cell takes 2 CPUs and 0 GPUs, but the nodes of the Ray cluster have 1 and 0, 1 and 0.5; ask for less"
    with pytest.raises(RunError, match=told):
        run(FakeRay({"CPU": 1.0}, {"CPU": 1.0, "GPU": 0.5}), monkeypatch, cpus=2)


def test_cells_do_not_wait_for_ever_for_a_node_that_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *rest = run(FakeRay({"CPU": 1.0}, ends=1), monkeypatch)
    assert first == {"seed": 0}
    assert rest == ["the Ray cluster has lost every node with 1 CPUs and 0 GPUs"] * 2

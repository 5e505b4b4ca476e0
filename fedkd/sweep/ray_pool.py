"""Cells over a Ray cluster: an existing one, or this machine's own."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

from fedkd.errors import RunError
from fedkd.extras import need
from fedkd.sweep.plan import Cell
from fedkd.sweep.pool import Done, job_of

REACH_S = 10.0  # for the head of the cluster to take a connection
RETRIES = 3  # of a cell whose node or process died, elsewhere or in another process
LOOK_S = 5.0  # between looks at the cluster while no cell ends
NO_ROOM_S = 120.0  # a cluster that has lost every node on which a cell fits gets one back by then, or never


def run_on_ray(cells: Sequence[Cell], *, cpus: float, gpus: float) -> Iterator[Done]:
    """Each cell's result as it comes. RAY_ADDRESS names the cluster; without it Ray starts on this machine.

    Args:
        cpus, gpus: what one cell takes, also fractions of a GPU; Ray runs as many cells as fit.

    Raises:
        RunError: the cluster cannot be reached, or no node of it has what one cell takes.
    """
    ray = need("ray", extra="simulation", what="a sweep over Ray")
    address = os.environ.get("RAY_ADDRESS")
    is_ours = not ray.is_initialized()
    if is_ours:
        _check_reachable(address or "")
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False, namespace="fedkd")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise RunError(f"no Ray cluster at {address or 'this machine'}: {error}; check RAY_ADDRESS") from error
    try:
        if not _has_room(ray, cpus, gpus):
            raise RunError(
                f"one cell takes {cpus:g} CPUs and {gpus:g} GPUs, but the nodes of the Ray cluster have "
                f"{_told(ray)}; ask for less"
            )
        work = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(_remote)
        waiting = {work.remote(job_of(cell)): cell for cell in cells}
        deadline = time.monotonic() + NO_ROOM_S
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=LOOK_S)
            for done in ready:
                cell = waiting.pop(done)
                try:
                    yield cell, ray.get(done)
                except ray.exceptions.RayError as error:
                    yield cell, f"{type(error).__name__}: {str(error).splitlines()[0]}"
            if ready or _has_room(ray, cpus, gpus):
                deadline = time.monotonic() + NO_ROOM_S
            elif time.monotonic() > deadline:
                for cell in waiting.values():
                    yield cell, f"the Ray cluster has lost every node with {cpus:g} CPUs and {gpus:g} GPUs"
                return
    finally:
        if is_ours:
            ray.shutdown()


def _alive(ray: Any) -> list[dict[str, float]]:
    """What each living node has: a cell runs on one of them, never on two."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _has_room(ray: Any, cpus: float, gpus: float) -> bool:
    return any(has.get("CPU", 0.0) >= cpus and has.get("GPU", 0.0) >= gpus for has in _alive(ray))


def _told(ray: Any) -> str:
    return ", ".join(dict.fromkeys(f"{has.get('CPU', 0.0):g} and {has.get('GPU', 0.0):g}" for has in _alive(ray)))


def _check_reachable(address: str) -> None:
    """RunError where nobody listens at host:port; Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or "://" in address:
        return  # auto, local or a client's address: for Ray to find out
    try:
        socket.create_connection((host, int(port)), timeout=REACH_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise RunError(f"no Ray cluster at {address}: {error}; check RAY_ADDRESS") from error


def _remote(job: dict[str, Any]) -> dict[str, Any]:
    import torch

    from fedkd.sweep.work import run_cell

    torch.set_num_threads(1)
    return run_cell(job)

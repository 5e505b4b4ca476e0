"""Cells over a Ray cluster: an existing one, or this machine's own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from fedkd.errors import RunError
from fedkd.extras import need
from fedkd.sweep.plan import Cell
from fedkd.sweep.pool import Done, job_of

REACH_S = 10.0  # for the head of the cluster to take a connection


def run_on_ray(cells: Sequence[Cell], *, cpus: float, gpus: float) -> Iterator[Done]:
    """Each cell's result as it comes. RAY_ADDRESS names the cluster; without it Ray starts on this machine.

    Args:
        cpus, gpus: what one cell takes, also fractions of a GPU; Ray runs as many cells as fit.

    Raises:
        RunError: the cluster cannot be reached, or has not what one cell takes.
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
        there = ray.cluster_resources()
        if there.get("CPU", 0.0) < cpus or there.get("GPU", 0.0) < gpus:
            raise RunError(
                f"one cell takes {cpus:g} CPUs and {gpus:g} GPUs, but the Ray cluster has {there.get('CPU', 0.0):g} "
                f"and {there.get('GPU', 0.0):g}; ask for less"
            )
        work = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=1)(_remote)
        waiting = {work.remote(job_of(cell)): cell for cell in cells}
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            cell = waiting.pop(ready)
            try:
                yield cell, ray.get(ready)
            except ray.exceptions.RayError as error:  # a node or process that died, twice
                yield cell, f"{type(error).__name__}: {str(error).splitlines()[0]}"
    finally:
        if is_ours:
            ray.shutdown()


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

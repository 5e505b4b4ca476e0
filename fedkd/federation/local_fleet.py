"""Clients in this process, or in a few child processes: no Ray, no Flower."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from typing import final

from fedkd.federation.fleet import CohortReply, Fleet, deal, failed_cohort, read_reply
from fedkd.federation.host import ClientHost
from fedkd.federation.messages import Request
from fedkd.federation.wire import Bundle, Parcel, pack, unpack
from fedkd.threads import one_torch_thread


@final
class LocalFleet(Fleet):
    """One worker: everything happens here. More workers: child processes, each with cohorts of its own."""

    def __init__(self, *, workers: int = 1, clients_per_node: int = 0) -> None:
        self._clients_per_node = clients_per_node
        self._settings = contextlib.ExitStack()
        self._children: list[ProcessPoolExecutor] = []
        self._workers = workers
        if workers == 1:
            self._settings.enter_context(one_torch_thread())
            # In this process a resident state cannot get lost between messages, so it need not be written each round.
            self._host = ClientHost(write_through=False)
        else:
            self._children = [_new_child() for _ in range(workers)]

    def hello(self, request: Request, *, deadline_s: float) -> list[Parcel]:  # noqa: ARG002 - the contract's arguments
        """One greeting: child processes are equal."""
        nobody = pack(Bundle(request.kind, Parcel()))
        host = ClientHost() if self._children else self._host
        return [unpack(host.handle(request.common(), nobody)).shared]

    def broadcast(self, request: Request, *, deadline_s: float) -> Iterator[CohortReply]:
        """Cohorts in turn here, or side by side in the children."""
        cohorts = deal(sorted(request.clients), self._workers, self._clients_per_node)
        common = request.common()
        if not self._children:
            for cohort in cohorts:
                yield read_reply(self._host.handle(common, request.cohort(cohort)), cohort)
            return
        deadline = time.monotonic() + deadline_s
        pending: list[tuple[int, list[int], Future[bytes]]] = []
        for number, cohort in enumerate(cohorts):
            child = number % self._workers
            pending.append((child, cohort, self._children[child].submit(_handle, common, request.cohort(cohort))))
        for child, cohort, future in pending:
            try:
                yield read_reply(future.result(timeout=max(0.0, deadline - time.monotonic())), cohort)
            except BrokenProcessPool:
                self._children[child] = _new_child()  # the next message reloads its clients from the store
                yield failed_cohort(cohort, "the worker process died (killed, or out of memory)")
            except FutureTimeoutError:
                yield failed_cohort(cohort, f"no reply within {deadline_s:g} s")

    def close(self) -> None:
        """End the children, put torch's thread count back."""
        for child in self._children:
            child.shutdown(wait=True, cancel_futures=True)
        self._settings.close()


_HOST = ClientHost()  # of a child process


def _new_child() -> ProcessPoolExecutor:
    # Spawned, not forked: a fork of a process with threads (torch, OpenMP) can hang.
    return ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare)


def _prepare() -> None:
    import torch

    torch.set_num_threads(1)


def _handle(common: bytes, cohort: bytes) -> bytes:
    return _HOST.handle(common, cohort)

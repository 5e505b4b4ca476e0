"""Clients in this process, or in a few child processes: no Ray, no Flower."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from typing import final

from fedkd.federation.fleet import CohortReply, Fleet, deal, failed_cohort, read_reply
from fedkd.federation.gpus import gpu_environment, visible_gpus
from fedkd.federation.host import ClientHost
from fedkd.federation.messages import Request
from fedkd.federation.wire import Bundle, Parcel, pack, unpack
from fedkd.federation.worker import Worker, WorkerDiedError
from fedkd.threads import one_torch_thread


@final
class LocalFleet(Fleet):
    """One worker: everything happens here. More workers: child processes, each with cohorts of its own.

    Args:
        device: where clients train; unless that is the CPU, children share the visible GPUs out among themselves.
    """

    def __init__(self, *, workers: int = 1, clients_per_node: int = 0, device: str = "auto") -> None:
        self._clients_per_node = clients_per_node
        self._workers = workers
        self._settings = contextlib.ExitStack()
        self._children: list[Worker] = []
        self._pending: list[tuple[int, list[int], Future[bytes]]] = []  # (child, cohort, its reply)
        # In this process a resident state cannot get lost between messages, so it need not be written each round.
        self._host = ClientHost(write_through=workers > 1)
        self._settings.enter_context(one_torch_thread())  # also beside children: a server model may train here
        if workers > 1:
            self._environs = [gpu_environment(child, _gpus(device)) for child in range(workers)]
            self._children = [Worker.start(environ=environ) for environ in self._environs]
            # One thread a child: it sends the child's requests one after another and waits for its replies.
            self._queues = [self._settings.enter_context(ThreadPoolExecutor(max_workers=1)) for _ in range(workers)]

    def hello(self, request: Request, *, deadline_s: float) -> list[Parcel]:  # noqa: ARG002 - the contract's arguments
        """One greeting: child processes are equal."""
        nobody = pack(Bundle(request.kind, Parcel()))
        return [unpack(self._host.handle(request.common(), nobody)).shared]

    def broadcast(self, request: Request, *, deadline_s: float) -> Iterator[CohortReply]:
        """Cohorts in turn here, where nobody can be late, or side by side in the children."""
        cohorts = deal(sorted(request.clients), self._workers, self._clients_per_node)
        common = request.common()
        if not self._children:
            for cohort in cohorts:
                yield read_reply(self._host.handle(common, request.cohort(cohort)), cohort)
            return
        deadline = time.monotonic() + deadline_s
        for number, cohort in enumerate(cohorts):
            child = number % self._workers
            future = self._queues[child].submit(self._ask, child, common, request.cohort(cohort))
            self._pending.append((child, cohort, future))
        try:
            for _, cohort, future in tuple(self._pending):
                try:
                    reply = read_reply(future.result(timeout=max(0.0, deadline - time.monotonic())), cohort)
                except (TimeoutError, CancelledError, WorkerDiedError) as error:
                    is_late = time.monotonic() >= deadline
                    if is_late:
                        self._abandon()
                    reply = failed_cohort(cohort, f"no reply within {deadline_s:g} s" if is_late else str(error))
                yield reply
        finally:
            self._abandon()

    def close(self) -> None:
        """End the children, put torch's thread count back."""
        self._abandon()
        self._settings.close()
        for child in self._children:
            child.stop()

    def _ask(self, child: int, common: bytes, cohort: bytes) -> bytes:
        """The child's reply; runs in its thread. A new child takes the place of a dead one and reads the store."""
        if not self._children[child].is_alive:
            self._children[child].stop()
            self._children[child] = Worker.start(environ=self._environs[child])
        return self._children[child].ask(common, cohort)

    def _abandon(self) -> None:
        """Take back what no child has begun, and end the children still at work: their replies would come too late."""
        for _, _, future in self._pending:
            future.cancel()
        for child, _, future in self._pending:
            while not future.done():
                self._children[child].kill()
                wait([future], timeout=0.1)
        self._pending = []


def _gpus(device: str) -> tuple[str, ...]:
    """The GPUs to share out; torch counts them without starting CUDA in this process."""
    if device == "cpu":
        return ()
    import torch

    return visible_gpus(os.environ, torch.cuda.device_count())

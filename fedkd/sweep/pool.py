"""Cells over child processes of this machine."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

from fedkd.federation.worker import Worker, WorkerDiedError
from fedkd.sweep.plan import Cell

MODULE = "fedkd.sweep.worker"
Done: TypeAlias = tuple[Cell, dict[str, Any] | str]  # the result, or why there is none


def run_locally(cells: Sequence[Cell], *, workers: int) -> Iterator[Done]:
    """Each cell's result as it comes, `workers` cells at a time. A process that dies costs its cell and is replaced.

    The children end with the iteration, however that ends.
    """
    todo: queue.SimpleQueue[Cell] = queue.SimpleQueue()
    for cell in cells:
        todo.put(cell)
    done: queue.SimpleQueue[Done] = queue.SimpleQueue()
    children: list[Worker] = []
    is_over = threading.Event()

    def work() -> None:
        child: Worker | None = None
        with contextlib.suppress(queue.Empty):
            while not is_over.is_set():
                cell = todo.get_nowait()
                if child is None:
                    child = Worker.start(MODULE)
                    children.append(child)
                try:
                    done.put((cell, json.loads(child.ask(json.dumps(job_of(cell)).encode(), b""))))
                except WorkerDiedError as error:
                    done.put((cell, str(error)))
                    child.stop()  # it is dead: its pipes are closed
                    child = None
        if child is not None:
            child.stop()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(workers, len(cells)))]
    for thread in threads:
        thread.start()
    try:
        for _ in cells:
            yield done.get()
    finally:
        is_over.set()
        for child in tuple(children):
            if child.is_alive and any(thread.is_alive() for thread in threads):
                child.stop()  # not kill: a cell removes its scratch folder
        for thread in threads:
            thread.join()


def job_of(cell: Cell) -> dict[str, Any]:
    """The cell as plain JSON."""
    return {**asdict(cell), "labels": dict(cell.labels), "values": dict(cell.values)}

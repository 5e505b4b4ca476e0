"""A child process that keeps clients, and the pipe to it. Frames are lengths and bytes: nothing is pickled.

Started as `python -m fedkd.federation.worker`, so it never imports the caller's main module.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, TypeAlias

from fedkd.errors import FedKDError

Handler: TypeAlias = Callable[[bytes, bytes], bytes]
_LENGTH = struct.Struct("<Q")


class WorkerDiedError(FedKDError):
    """The child process ended before it answered."""


@dataclass(eq=False)
class Worker:
    """The parent's end: one request at a time."""

    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, module: str = "fedkd.federation.worker", *, environ: Mapping[str, str] | None = None) -> Worker:
        """A new child that runs `module`, which calls `serve`; it inherits standard error, so that complaints are seen.

        It leads a process group: Ctrl-C is the parent's affair, and what a trainer starts can be ended with it.

        Args:
            environ: variables that differ from those here.
        """
        path = os.pathsep.join(filter(None, sys.path))
        return cls(
            subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                process_group=0,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **(environ or {})},
            )
        )

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self.process.poll() is None

    def ask(self, common: bytes, cohort: bytes) -> bytes:
        """The child's reply; WorkerDiedError where it ended instead."""
        pipe_in, pipe_out = self.process.stdin, self.process.stdout
        assert pipe_in is not None  # both were asked for in start()
        assert pipe_out is not None
        try:
            _send(pipe_in, common)
            _send(pipe_in, cohort)
            reply = _receive(pipe_out)
        except OSError:
            reply = None
        if reply is None:
            code = self.process.wait()
            raise WorkerDiedError(
                f"the worker process ended with code {code} (killed, or out of memory?); its own words are above"
            )
        return reply

    def stop(self) -> None:
        """End the child: politely by closing its input, after ten seconds by force. Who asks gets WorkerDiedError."""
        self._close(self.process.stdin)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()
        self._close(self.process.stdout)

    def kill(self) -> None:
        """End the child, and what it has started, at once; whoever is asking it gets WorkerDiedError."""
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @staticmethod
    def _close(pipe: IO[bytes] | None) -> None:
        if pipe is not None:
            with contextlib.suppress(OSError):  # what was not sent to a dead child cannot be sent any more
                pipe.close()


def serve(start: Callable[[], Handler]) -> None:
    """Answer requests from standard input until it closes, with what `start` makes.

    Who closes it while a request is worked on has let go of the reply, or was killed: the work then ends at once, as by
    SIGTERM, and `finally` clauses run.
    """
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not land among the frames
    frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    is_busy = threading.Event()

    def listen() -> None:
        while (frame := _receive(requests)) is not None:
            frames.put(frame)
        frames.put(None)
        if is_busy.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=listen, daemon=True).start()
    handle = start()
    while (common := frames.get()) is not None:
        cohort = frames.get()
        if cohort is None:
            return
        is_busy.set()
        reply = handle(common, cohort)
        is_busy.clear()
        try:
            _send(replies, reply)
        except BrokenPipeError:
            return


def _send(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(_LENGTH.pack(len(data)))
    pipe.write(data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes | None:
    """The next frame; None where the other side has closed."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    data = pipe.read(length)
    return data if len(data) == length else None


def _clients() -> Handler:
    from fedkd.federation.host import ClientHost

    return ClientHost().handle


if __name__ == "__main__":
    serve(_clients)

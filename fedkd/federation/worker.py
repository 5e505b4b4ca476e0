"""A child process that keeps clients, and the pipe to it. Frames are lengths and bytes: nothing is pickled.

Started as `python -m fedkd.federation.worker`, so it never imports the caller's main module.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from dataclasses import dataclass
from typing import IO

from fedkd.errors import FedKDError

_LENGTH = struct.Struct("<Q")


class WorkerDiedError(FedKDError):
    """The child process ended before it answered."""


@dataclass(eq=False)
class Worker:
    """The parent's end: one request at a time."""

    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls) -> Worker:
        """A new child; it inherits standard error, so that its complaints are seen."""
        return cls(
            subprocess.Popen(
                [sys.executable, "-m", "fedkd.federation.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        )

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
        """End the child: politely by closing its input, after ten seconds by force."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End the child at once."""
        self.process.kill()
        self.process.wait()


def main() -> None:
    """Answer requests from standard input until it closes."""
    import torch

    from fedkd.federation.host import ClientHost

    torch.set_num_threads(1)
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not land among the frames
    host = ClientHost()
    while (common := _receive(requests)) is not None:
        cohort = _receive(requests)
        if cohort is None:
            return
        _send(replies, host.handle(common, cohort))


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


if __name__ == "__main__":
    main()

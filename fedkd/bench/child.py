"""Measurements in processes of their own: each is asked one thing, answers in JSON and ends."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedkd.errors import FedKDError

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_LAST_LINES = 20  # of a failed child's complaints that are shown


def ask_child(
    module: str, request: Mapping[str, Any], *, what: str, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What a fresh `python -m module`, which calls `answer`, makes of the request. It computes on one thread.

    Args:
        what: what it does, for messages.
        env: variables that it gets beside this process's own.

    Raises:
        FedKDError: the child raised one, or ended without an answer.
    """
    done = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps(request),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **ONE_THREAD, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        words = "\n".join(done.stderr.splitlines()[-_LAST_LINES:]) or f"it ended with code {done.returncode}"
        raise FedKDError(f"{what} failed:\n{words}")
    reply: dict[str, Any] = json.loads(done.stdout)
    if "error" in reply:
        raise FedKDError(f"{what}: {reply['error']}")
    answer: dict[str, Any] = reply["answer"]
    return answer


def answer(work: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Do `work` on the request from standard input and print its answer; what libraries print goes elsewhere."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        reply: dict[str, Any]
        try:
            reply = {"answer": work(json.load(sys.stdin))}
        except FedKDError as error:
            reply = {"error": str(error)}
        json.dump(reply, out)


def peak_rss_bytes() -> int:
    """The most memory that this process held.

    Linux hands `ru_maxrss` on to a child process, so there the peak of this process alone comes from /proc.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, others kB

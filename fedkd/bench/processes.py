"""A run in processes of its own, watched from outside: when its numbers came, and the memory that all of it took."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedkd.errors import FedKDError

LOOK_S = 0.02  # between looks at the event file
SAMPLE_S = 0.25  # between looks at the memory
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(eq=False)
class Watched:
    """What was seen of one command that ran to its end.

    Attributes:
        seconds: from its start to its exit.
        lines: seconds from the start at which each line of the watched file was there.
        peak_pss_bytes: the most that its processes took together, shared pages counted once; 0 where that is not told.
        peak_processes: the most processes at a time.
    """

    seconds: float
    lines: list[float] = field(default_factory=list)
    peak_pss_bytes: int = 0
    peak_processes: int = 0


def watch(arguments: Sequence[str], *, lines_of: Path) -> Watched:
    """Run `fedkd` with these arguments, one thread a process, and watch it; FedKDError where it fails."""
    command = [sys.executable, "-c", "from fedkd.cli import main; main()", *arguments]
    environment = {**os.environ, **dict.fromkeys(THREADS, "1"), "PYTHONPATH": os.pathsep.join(sys.path)}
    started = time.monotonic()
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    seen, is_over, said = Watched(0.0), threading.Event(), [""]
    memory = threading.Thread(target=_sample, args=(process.pid, seen, is_over))
    words = threading.Thread(target=_read_all, args=(process, said))  # a full pipe would hold it up
    memory.start()
    words.start()
    try:
        while process.poll() is None:
            _count(lines_of, seen.lines, started)
            time.sleep(LOOK_S)
        seen.seconds = time.monotonic() - started
        _count(lines_of, seen.lines, started)
    finally:
        is_over.set()
        if process.poll() is None:
            process.terminate()
            process.wait()
        memory.join()
        words.join()
    if process.returncode:
        raise FedKDError(f"`fedkd {' '.join(arguments)}` failed:\n{said[0][-2000:]}")
    return seen


def tree_pss(pid: int) -> tuple[int, int]:
    """Proportional memory in bytes of a process and all that came of it, and their number."""
    parents = _parents()
    found = [pid]
    for ancestor in found:
        found += [child for child, parent in parents.items() if parent == ancestor]
    sizes = [size for each in found if (size := _pss(each)) is not None]
    return sum(sizes), len(sizes)


def _sample(pid: int, seen: Watched, is_over: threading.Event) -> None:
    while not is_over.wait(SAMPLE_S):
        size, number = tree_pss(pid)
        seen.peak_pss_bytes = max(seen.peak_pss_bytes, size)
        seen.peak_processes = max(seen.peak_processes, number)


def _read_all(process: subprocess.Popen[str], said: list[str]) -> None:
    assert process.stderr is not None
    with process.stderr:
        said[0] = process.stderr.read()


def _count(path: Path, lines: list[float], started: float) -> None:
    with contextlib.suppress(FileNotFoundError):
        new = path.read_bytes().count(b"\n") - len(lines)
        lines += [time.monotonic() - started] * max(0, new)


def _pss(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return None


def _parents() -> dict[int, int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    return parents

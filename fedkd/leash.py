"""Runs a command that must not outlive its caller: `python -m fedkd.leash FOLDER COMMAND…`, standard input a pipe.

Once the caller's end of the pipe closes, because it let go or was ended in whatever way (`kill -9` included), every
process that came of the command is ended and FOLDER is removed. When the command ends by itself, so do the others, and
the folder is left for the caller to look into.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

GRACE_S = 3.0  # between asking a process to end and ending it
_SET_CHILD_SUBREAPER = 36  # of Linux's prctl(2)


def main() -> int:
    """Hold the command until one side ends; the command's exit status, as the shell would give it."""
    folder, command = sys.argv[1], sys.argv[2:]
    _adopt_orphans()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, who then lets go
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    is_let_go = threading.Event()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: child.terminate())
    threading.Thread(target=_wait_for_release, args=(child, is_let_go), daemon=True).start()
    code = child.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    _end_children()
    if is_let_go.is_set():
        shutil.rmtree(folder, ignore_errors=True)
    return code if code >= 0 else 128 - code


def _adopt_orphans() -> None:
    """Where a descendant's parent ends first, Linux makes us its parent: what starts a session of its own is found too.

    Elsewhere the command's process group has to do.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _wait_for_release(child: subprocess.Popen[bytes], is_let_go: threading.Event) -> None:
    """End the command once the caller's end of the pipe has closed."""
    with contextlib.suppress(OSError):
        while os.read(0, 1):  # not sys.stdin: its lock, held here, would keep the interpreter from ending
            pass
    is_let_go.set()
    for pid in _descendants():  # all at once: Flower's processes would wait for each other
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_S)
    child.kill()


def _end_children() -> None:
    """End our children, and theirs as they become ours, until there is none."""
    started = time.monotonic()
    asked: set[int] = set()
    while True:
        is_over = time.monotonic() - started > GRACE_S
        for pid in _children():
            if is_over or pid not in asked:
                asked.add(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if is_over else signal.SIGTERM)
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        time.sleep(0.05)


def _children() -> list[int]:
    """Process ids of our children; empty where there is no /proc."""
    return [pid for pid, parent in _parents().items() if parent == os.getpid()]


def _descendants() -> list[int]:
    """Process ids of our children and of theirs."""
    parents, found = _parents(), [os.getpid()]
    for ancestor in found:
        found += [pid for pid, parent in parents.items() if parent == ancestor]
    return found[1:]


def _parents() -> dict[int, int]:
    """The parent of every process that runs."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(path.parent.name)] = int(parent)
    return parents


if __name__ == "__main__":
    sys.exit(main())

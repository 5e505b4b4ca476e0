"""The leash: nothing that a command started outlives its caller, however the caller ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

# A tree as Flower makes it: the command starts a session of its own, which starts another; each writes its id.
TREE = """
import os, signal, subprocess, sys, time
depth, folder, ignores = int(sys.argv[2]), sys.argv[3], sys.argv[4]
if ignores == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(os.path.join(folder, str(os.getpid())), "w").close()
if depth:
    subprocess.Popen([sys.executable, *sys.argv[:2], str(depth - 1), folder, ignores], start_new_session=True)
if ignores == "leaves" and depth == 2:
    time.sleep(0.5)
    sys.exit(7)
time.sleep(60)
"""
# A caller as fedkd is: it holds the pipe and waits.
CALLER = """
import subprocess, sys, time
leash = subprocess.Popen([sys.executable, "-m", "fedkd.leash", *sys.argv[1:]], stdin=subprocess.PIPE)
print(leash.pid, flush=True)
time.sleep(60)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finding orphans needs Linux")


@pytest.fixture
def ids(tmp_path: Path) -> Iterator[Path]:
    """The folder where the tree's processes write their ids; whatever is left of them ends with the test."""
    folder = tmp_path / "ids"
    folder.mkdir()
    yield folder
    for pid in alive(folder):
        os.kill(pid, signal.SIGKILL)


def tree(ids: Path, kind: str = "plain") -> list[str]:
    home = ids.parent / "home"
    home.mkdir()
    script = ids.parent / "tree.py"
    script.write_text(TREE)
    return [str(home), sys.executable, str(script), "tree", "2", str(ids), kind]


def alive(ids: Path) -> list[int]:
    """Those of the tree that run; a process that nobody has reaped yet runs no more."""
    found = []
    for pid in (int(path.name) for path in ids.iterdir()):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.append(pid)
    return found


def until(condition: object, *, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_all_end_with_the_caller(number: signal.Signals, ids: Path) -> None:
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, *tree(ids)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert caller.stdout is not None
    with caller.stdout:
        leash = int(caller.stdout.readline())
    until(lambda: len(alive(ids)) == 3)
    caller.send_signal(number)
    caller.wait()
    until(lambda: not alive(ids))
    until(lambda: not Path(f"/proc/{leash}").exists())
    assert not (ids.parent / "home").exists()


def start(ids: Path, kind: str = "plain") -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "fedkd.leash", *tree(ids, kind)], stdin=subprocess.PIPE)


def let_go(leash: subprocess.Popen[bytes]) -> int:
    assert leash.stdin is not None
    leash.stdin.close()
    return leash.wait(20)


def test_letting_go_ends_all_and_waits_for_it(ids: Path) -> None:
    leash = start(ids)
    until(lambda: len(alive(ids)) == 3)
    assert let_go(leash) == 128 + signal.SIGTERM
    assert alive(ids) == []
    assert not (ids.parent / "home").exists()


def test_who_does_not_listen_is_forced(ids: Path) -> None:
    leash = start(ids, "deaf")
    until(lambda: len(alive(ids)) == 3)
    assert let_go(leash) == 128 + signal.SIGKILL
    assert alive(ids) == []


def test_a_command_that_ends_takes_its_children_along(ids: Path) -> None:
    leash = start(ids, "leaves")
    code = leash.wait(20)
    let_go(leash)
    assert code == 7
    assert (ids.parent / "home").exists()  # its log may say why
    assert len(list(ids.iterdir())) == 3
    assert alive(ids) == []

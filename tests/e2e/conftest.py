"""What the end-to-end tests share: a copy of the checkout, and a look at every process that came of a command."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fedkd.compose import compose
from fedkd.runner import run
from fedkd.threads import one_torch_thread
from fedkd.types import Scalar

FEDKD = str(Path(sys.executable).parent / "fedkd")
_MARK = "FEDKD_TEST_MARK"


@dataclass(eq=False)
class Started:
    """A command and all that came of it, known by a mark in the environment, which processes inherit."""

    process: subprocess.Popen[str]
    mark: str
    seen: set[int] = field(default_factory=set)

    def alive(self) -> set[int]:
        """Process ids that live: not those which have ended and wait for their parent to notice."""
        found = set()
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"{_MARK}={self.mark}".encode() in (path / "environ").read_bytes().split(b"\0"):
                    state = (path / "stat").read_text().rpartition(")")[2].split()[0]
                    found |= {int(path.name)} if state != "Z" else set()
        self.seen |= found
        return found

    def commands(self) -> str:
        """Command lines of those that live."""
        lines = []
        for pid in self.alive():
            with contextlib.suppress(OSError):
                lines.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
        return "\n".join(lines)

    def wait(self, *, timeout_s: float = 180.0) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        out, err = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, out, err

    def gone(self, *, timeout_s: float = 15.0) -> set[int]:
        """Who is still there after `timeout_s`; nobody, if all is well."""
        deadline = time.monotonic() + timeout_s
        while (left := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left | {pid for pid in self.seen if _runs(pid, self.mark)}

    def kill_all(self) -> None:
        """End whatever is left, for the sake of the next test."""
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.communicate()


Start = Callable[..., Started]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Starts a command in a folder, with a mark; ends what is left of it after the module."""
    everything: list[Started] = []

    def started(*command: str, cwd: Path, environment: Mapping[str, str] | None = None) -> Started:
        mark = uuid.uuid4().hex
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, "COLUMNS": "120", **(environment or {}), _MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        everything.append(Started(process, mark))
        return everything[-1]

    yield started
    for one in everything:
        one.kill_all()


@pytest.fixture(scope="session")
def checkout(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout as it is now: files that git knows, and new ones that it does not ignore."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=repo_root, check=True, capture_output=True, text=True).stdout
    copy = tmp_path_factory.mktemp("checkout") / "fedkd-copy"
    for name in filter(None, listed.split("\0")):
        if (repo_root / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(repo_root / name, copy / name)
    return copy


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`straight(rounds=3)`: the folder of an unbroken local run with these keys, of an experiment if one is named."""
    folders: dict[Any, Path] = {}

    def ran(*, experiment: str = "", **keys: Scalar) -> Path:
        what = repr((experiment, keys))
        if what not in folders:
            folders[what] = tmp_path_factory.mktemp("straight") / "run"
            with one_torch_thread():
                run(compose(experiment=experiment, overrides={"the test": keys}), folders[what])
        return folders[what]

    return ran


def _runs(pid: int, mark: str) -> bool:
    with contextlib.suppress(OSError):
        return f"{_MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    return False

"""`fedkd run --engine flower` for real: Flower, Ray, processes. Each run costs about 25 s, so tests share them."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import FEDKD, Start, Started

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]

OUTSIDE = """
from fedkd.methods.soft_targets import SoftTargets

class Raises(SoftTargets):
    def fit(self, ctx, state, knowledge):
        raise ValueError("this trainer always fails")
"""
NAMESPACE = ("unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")


@dataclass(frozen=True)
class Ended:
    """One command that has ended, and who was left of it."""

    folder: Path
    code: int
    out: str
    err: str
    left: set[int]
    processes: int


@dataclass(frozen=True)
class Pair:
    good: Ended
    bad: Ended


@pytest.fixture(scope="module")
def pair(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two runs at the same time, of which one fails."""
    folder = tmp_path_factory.mktemp("pair")
    (folder / "outside.py").write_text(OUTSIDE)
    common = [FEDKD, "run", "--engine", "flower", "-c", "engine.workers=2", "-c", "rounds=3"]
    good = start(*common, "--out", "good", cwd=folder)
    failing = ["-c", "method.name=outside:Raises"]
    bad = start(*common, *failing, "--out", "bad", cwd=folder, environment={"PYTHONPATH": str(folder)})
    while good.process.poll() is None and not (folder / "good" / "summary.json").exists():
        good.alive()
        bad.alive()
        time.sleep(0.5)
    return Pair(ended(good, folder / "good"), ended(bad, folder / "bad"))


def ended(started: Started, folder: Path) -> Ended:
    code, out, err = started.wait()
    return Ended(folder, code, out, err, started.gone(timeout_s=1.0), len(started.seen))


def test_numbers_equal_those_of_the_local_engine(pair: Pair, straight: Callable[..., Path]) -> None:
    assert pair.good.code == 0, pair.good.err
    expected = straight(rounds=3) / "metrics.jsonl"
    assert (pair.good.folder / "metrics.jsonl").read_bytes() == expected.read_bytes()


def test_it_prints_each_round_once_and_the_table(pair: Pair) -> None:
    told = [line.split("  ")[0] for line in pair.good.err.splitlines()]
    assert told == ["set-up", "round 1/3", "round 2/3", "round 3/3", "closing"]
    assert len(re.findall(r"^preset +data +partition", pair.good.out, flags=re.MULTILINE)) == 1
    assert f"run:    {pair.good.folder}\n" in pair.good.out
    assert (pair.good.folder / "report.html").exists()
    assert "\x1b" not in pair.good.out + pair.good.err


def test_a_run_that_fails_says_why_and_keeps_flower_s_log(pair: Pair) -> None:
    assert pair.bad.code == 1
    assert pair.bad.out == ""
    (reason,) = [line for line in pair.bad.err.splitlines() if line.startswith("fedkd: ")]
    assert "finished:failed: round 0: 0 good replies" in reason
    assert "client 0: ValueError: this trainer always fails" in reason
    assert "Traceback" not in pair.bad.err
    log = (pair.bad.folder / "flower.log").read_text()
    assert "this trainer always fails" in log
    assert "\x1b" not in log


@pytest.mark.parametrize("which", ["good", "bad"])
def test_no_process_is_left(which: str, pair: Pair) -> None:
    one: Ended = getattr(pair, which)
    assert one.processes > 5  # it did start SuperLink, simulation, Ray
    assert one.left == set()


ROUNDS = {"rounds": 24, "checkpoint.every": 2}


@dataclass(frozen=True)
class Broken:
    folder: Path
    interrupted: Ended
    killed: set[int]
    final: Ended
    had_no_network: bool


@pytest.fixture(scope="module")
def broken(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Broken:
    """One run in three pieces: interrupted by Ctrl-C, killed, and brought to its end, without a network if possible."""
    folder = tmp_path_factory.mktemp("broken")
    keys = [part for key, value in ROUNDS.items() for part in ("-c", f"{key}={value}")]
    engine = ["--engine", "flower"]
    first = start(FEDKD, "run", *engine, "-c", "engine.workers=2", *keys, "--out", "run", cwd=folder)
    until_checkpoint(4, folder / "run", first)
    first.process.send_signal(signal.SIGINT)
    code, out, err = first.wait(timeout_s=30)
    interrupted = Ended(folder / "run", code, out, err, first.gone(timeout_s=1.0), len(first.seen))

    second = start(FEDKD, "run", "--resume", "run", *engine, cwd=folder)
    until_checkpoint(8, folder / "run", second)
    second.process.kill()
    second.process.communicate()
    killed = second.gone()

    prefix = NAMESPACE if namespace_works() else ()
    third = start(*prefix, FEDKD, "run", "--resume", "run", *engine, cwd=folder)
    final = ended(third, folder / "run")
    return Broken(folder / "run", interrupted, killed, final, bool(prefix))


def until_checkpoint(rounds: int, folder: Path, started: Started, *, timeout_s: float = 120.0) -> None:
    """Wait until a checkpoint holds so many rounds."""
    deadline = time.monotonic() + timeout_s
    while not any(int(path.stem[-6:]) >= rounds for path in (folder / "checkpoints").glob("round-*.safetensors")):
        if started.process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"no checkpoint after {rounds} rounds: {started.wait(timeout_s=30)}")
        started.alive()
        time.sleep(0.05)


def namespace_works() -> bool:
    """Whether this machine lets us make a network of loopback alone."""
    if not shutil.which("unshare") or not shutil.which("ip"):
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


def test_ctrl_c_ends_everything_and_says_how_to_go_on(broken: Broken) -> None:
    assert broken.interrupted.code == 130
    assert f"go on with: fedkd run --resume {broken.folder} --engine flower\n" in broken.interrupted.err
    assert "Traceback" not in broken.interrupted.err
    assert broken.interrupted.processes > 5
    assert broken.interrupted.left == set()


def test_kill_9_leaves_no_orphan(broken: Broken) -> None:
    assert broken.killed == set()


def test_the_pieces_equal_a_straight_run(broken: Broken, straight: Callable[..., Path]) -> None:
    assert broken.final.code == 0, broken.final.err
    told = [line.split("  ")[0] for line in broken.final.err.splitlines()]
    assert told[-2:] == ["round 24/24", "closing"]
    assert len(told) == len(set(told))  # from the checkpoint on, each round once
    expected = straight(**ROUNDS) / "metrics.jsonl"
    assert (broken.folder / "metrics.jsonl").read_bytes() == expected.read_bytes()


def test_it_needs_no_network(broken: Broken) -> None:
    if not broken.had_no_network:
        pytest.skip("this machine does not let us make a network namespace (unshare -n, ip link set lo up)")
    assert broken.final.code == 0
    assert broken.final.left == set()

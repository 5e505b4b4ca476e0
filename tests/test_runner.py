"""Running an experiment: who may write into its folder, and what is cut before it goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fedkd.compose import compose
from fedkd.errors import RunError
from fedkd.federation.local_fleet import LocalFleet
from fedkd.runner import conduct, open_run, resume, rewind, run, start_run

TINY = {"preset": "local_only", "rounds": 2, "schedule.private_steps": 1, "checkpoint.every": 1}

HOLD = """
import sys
from pathlib import Path
from fedkd.report.folder import RunFolder
from fedkd.runner import _alone
with _alone(RunFolder.open(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedkd.runner.write_report", lambda folder: None)


def test_two_processes_never_write_into_one_run(tmp_path: Path) -> None:
    started = start_run(compose(overrides={"here": TINY}), tmp_path / "run")
    path = started.folder.path
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=r"another process is running .*; wait until it has ended, or end it"):
            resume(path)
        with pytest.raises(RunError, match="another process is running"):
            rewind(started)
        other.kill()  # the system lets go of it, whatever happened
    assert resume(path)["acc_mean_final"] is not None
    assert sorted(entry.name for entry in path.iterdir() if entry.name.startswith(".")) == []


def test_rewinding_cuts_back_to_the_checkpoint(tmp_path: Path) -> None:
    straight = tmp_path / "straight"
    run(compose(overrides={"here": TINY}), straight)
    started = open_run(straight)
    whole = started.folder.metrics_jsonl.read_bytes()
    with started.folder.metrics_jsonl.open("ab") as file:
        file.write(b'{"round_id": 9}\n')
    rewind(started)
    assert started.folder.metrics_jsonl.read_bytes() == whole


def test_rewinding_a_run_without_a_checkpoint_empties_its_files(tmp_path: Path) -> None:
    started = start_run(compose(overrides={"here": TINY}), tmp_path / "run")
    started.folder.metrics_jsonl.write_bytes(b'{"round_id": -1}\n')
    rewind(started)
    assert started.folder.metrics_jsonl.read_bytes() == b""
    with LocalFleet() as fleet:
        assert conduct(started, fleet, engine="local")["engine"] == "local"

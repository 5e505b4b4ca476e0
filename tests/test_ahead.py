"""A console script loaded ahead of its arguments."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def start(name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fedkd.ahead", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_runs_with_the_arguments_that_come_later() -> None:
    with start("flwr") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(["--version"]) + "\n")
        process.stdin.flush()
        assert "1.41" in process.stdout.read()
        assert process.wait(20) == 0


@pytest.mark.parametrize("said", ["", '["--vers'])
def test_without_arguments_it_ends_with_its_caller(said: str) -> None:
    process = start("flwr")
    assert process.communicate(said, timeout=60) == ("", "")
    assert process.returncode == 0


def test_a_script_that_is_not_there_is_named() -> None:
    _, err = start("no-such-script").communicate(timeout=60)
    assert err == "no-such-script is not installed; install fedkd with pip\n"

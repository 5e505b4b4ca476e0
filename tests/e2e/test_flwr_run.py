"""Flower's own `flwr run .` in a checkout, line by line as the README says."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import Start

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]


@dataclass(frozen=True)
class FlwrRun:
    folder: Path
    said: str
    status: str
    daemon_before: str
    left: set[int]
    pyproject_before: bytes


@pytest.fixture(scope="module")
def flwr_run(checkout: Path, start: Start) -> FlwrRun:
    """The README's two blocks, with a free port, three rounds and the environment that the tests run in."""
    port, pyproject = str(free_port()), (checkout / "pyproject.toml").read_bytes()
    blocks = re.findall(r"```sh\n(.*?)```", (checkout / "README.md").read_text(), flags=re.DOTALL)
    (begin,) = (block for block in blocks if "flwr run . --stream\n" in block)
    (end,) = (block for block in blocks if block.startswith("kill "))
    assert "39191" in begin
    begin = begin.replace("39191", port).replace("--stream", "--stream -c 'rounds=3'")
    begin = begin.replace(". .venv/bin/activate\n", "")
    bin_first = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    everything = begin + "flwr list --format json > listed.json\n"
    started = start("bash", "-euc", everything, cwd=checkout, environment=bin_first)
    code, out, err = started.wait()
    assert code == 0, out + err
    runs = json.loads((checkout / "listed.json").read_text())["runs"]
    before = started.commands()
    # By standard input, as if typed: in the shell's own command line, pgrep would find its pattern.
    subprocess.run(["bash", "-eu"], input=end.replace("39191", port), text=True, cwd=checkout, check=True)
    return FlwrRun(checkout, out + err, runs[0]["status"], before, started.gone(), pyproject)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_it_completes_with_the_numbers_of_the_local_engine(flwr_run: FlwrRun, straight: Callable[..., Path]) -> None:
    assert flwr_run.status == "finished:completed"
    (run,) = (flwr_run.folder / "runs").iterdir()
    assert run.name.endswith("-edgefd")
    assert (run / "metrics.jsonl").read_bytes() == (straight(rounds=3) / "metrics.jsonl").read_bytes()


def test_its_stream_shows_the_folder_the_rounds_and_the_table(flwr_run: FlwrRun) -> None:
    (run,) = (flwr_run.folder / "runs").iterdir()
    assert f"run folder: {run}\n" in flwr_run.said
    assert "round 3/3" in flwr_run.said
    assert re.search(r"^preset +data +partition", flwr_run.said, flags=re.MULTILINE)
    assert f"report: {run / 'report.html'}\n" in flwr_run.said


def test_ten_clients_live_on_flower_s_two_nodes(flwr_run: FlwrRun) -> None:
    (run,) = (flwr_run.folder / "runs").iterdir()
    assert len(json.loads((run / "summary.json").read_text())["acc_per_client"]) == 10
    assert len(list((run / "state" / "setup").glob("*-*.safetensors"))) >= 2


def test_the_readme_s_last_line_ends_the_daemon(flwr_run: FlwrRun) -> None:
    assert "flower-superlink" in flwr_run.daemon_before
    assert flwr_run.left == set()


def test_the_checkout_s_pyproject_is_as_before(flwr_run: FlwrRun) -> None:
    assert (flwr_run.folder / "pyproject.toml").read_bytes() == flwr_run.pyproject_before

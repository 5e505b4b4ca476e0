"""A Ray cluster of two nodes on this machine, of which one is killed in the middle of the work: a run, then a sweep."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest

from fedkd.report.cells import CELLS, CellResult
from fedkd.sweep.conduct import conduct_sweep
from fedkd.sweep.plan import load_sweep
from fedkd.sweep.pool import run_locally
from tests.e2e.conftest import FEDKD, Start, Started

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray comes with the extra 'simulation'"),
]

RAY = str(Path(sys.executable).parent / "ray")
STARTS_WITHIN_S = 180.0  # these are for a busy machine
ENDS_WITHIN_S = 400.0
HOST = "127.0.0.1"


@dataclass(eq=False)
class Node:
    """A Ray node of one CPU. It is a process group: Ray's processes change their titles and environments."""

    leash: subprocess.Popen[bytes]  # ends the node when this process ends, in whatever way
    group: int

    def workers(self) -> list[str]:
        """Titles of the processes that work for somebody."""
        titles = [title(pid) for pid in members(self.group)]
        return [one for one in titles if one.startswith("ray::") and not one.endswith("Agent")]

    def kill(self) -> None:
        """All processes, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.group, signal.SIGKILL)
        self.leash.communicate(timeout=STARTS_WITHIN_S)


@dataclass(eq=False)
class Cluster:
    """Nodes on the loopback; the first one is the head."""

    folder: Path  # short: Ray's sockets lie below
    environment: Mapping[str, str]
    port: int
    nodes: list[Node] = field(default_factory=list)
    logs: int = 0

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def start(self) -> None:
        ports = [f"{name}={free_port()}" for name in ("--dashboard-port", "--ray-client-server-port")]
        self._add("--head", f"--port={self.port}", f"--temp-dir={self.folder}", *ports)
        self.join()

    def join(self) -> None:
        self._add(f"--address={self.address}")

    def end(self) -> None:
        for node in reversed(self.nodes):
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _add(self, *arguments: str) -> None:
        self.logs += 1
        log = self.folder / f"node-{self.logs}.log"
        command = [RAY, "start", "--block", "--num-cpus=1", "--num-gpus=0", f"--node-ip-address={HOST}", *arguments]
        with log.open("wb") as out:
            leash = subprocess.Popen(
                [sys.executable, "-m", "fedkd.leash", str(self.folder / f"node-{self.logs}"), *command],
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + STARTS_WITHIN_S
        while "Ray runtime started" not in (said := log.read_text()):
            if leash.poll() is not None or time.monotonic() > deadline:
                leash.communicate(timeout=STARTS_WITHIN_S)
                pytest.fail(f"no Ray node within {STARTS_WITHIN_S:g} s: {said}")
            time.sleep(0.1)
        self.nodes.append(Node(leash, child_of(leash.pid)))


@pytest.fixture(scope="module")
def cluster(repo_root: Path) -> Iterator[Cluster]:
    """A head and a second node; nothing is left of them afterwards, whatever has happened."""
    environment = {**os.environ, "PYTHONPATH": str(repo_root), "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {"RAY_health_check_period_ms": "500", "RAY_health_check_initial_delay_ms": "1000"}  # of lost nodes
    found = Cluster(Path(tempfile.mkdtemp(prefix="fk-", dir="/tmp")), environment, free_port())
    nodes: list[Node] = []
    try:
        found.start()
        nodes = list(found.nodes)
        yield found
    finally:
        found.end()
    assert [pid for node in nodes for pid in members(node.group)] == []


@dataclass(frozen=True)
class Run:
    folder: Path
    code: int
    err: str
    workers: list[list[str]]  # of each node, when one of them was killed
    has_ended_itself: bool


ROUNDS = 8
METHOD = {"method.name": "tests.doubles:Faulty"}
FAULT = {"method.fault": "die", "method.clients": "3", "method.rounds": str(ROUNDS - 1)}


@pytest.fixture(scope="module")
def broken(cluster: Cluster, start: Start, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose second node is killed after two rounds or so; in the last round a trainer ends its process once."""
    folder = tmp_path_factory.mktemp("broken")
    given = {**METHOD, **FAULT, "method.once": str(folder / "once"), "rounds": ROUNDS, "engine.workers": 2}
    keys = [part for key, value in given.items() for part in ("-c", f"{key}={value}")]
    environment = {**cluster.environment, "RAY_ADDRESS": cluster.address}
    one = start(FEDKD, "run", "--engine", "flower", *keys, "--out", "run", cwd=folder, environment=environment)
    until(lambda: lines(folder / "run" / "metrics.jsonl") > 2, one)
    workers = [node.workers() for node in cluster.nodes]
    time.sleep(random.uniform(0.0, 0.6))
    cluster.nodes.pop().kill()
    code, _, err = one.wait(timeout_s=ENDS_WITHIN_S)
    return Run(folder / "run", code, err, workers, (folder / "once").exists())


def test_clients_are_trained_on_both_nodes(broken: Run) -> None:
    for titles in broken.workers:
        assert len([one for one in titles if "ClientAppActor" in one]) == 1


def test_a_lost_node_and_a_lost_process_do_not_show(broken: Run, straight: Callable[..., Path]) -> None:
    assert broken.code == 0, broken.err
    assert broken.has_ended_itself
    log = (broken.folder / "flower.log").read_text()
    assert "asking again for the clients" in log
    assert log.count("a Ray actor has died; another one is asked for") == 2
    expected = straight(rounds=ROUNDS, **METHOD) / "metrics.jsonl"
    assert (broken.folder / "metrics.jsonl").read_bytes() == expected.read_bytes()


SWEEP = """
[sweep]
title = "Seeds"
[base]
rounds = 2
num_clients = 4
[axes]
preset = ["edgefd", "local_only"]
seed = [0, 1]
"""


def test_a_sweep_that_loses_a_node_ends_with_all_its_cells(cluster: Cluster, start: Start, tmp_path: Path) -> None:
    if len(cluster.nodes) < 2:
        cluster.join()
    (tmp_path / "seeds.toml").write_text(SWEEP)
    environment = {**cluster.environment, "RAY_ADDRESS": cluster.address}
    one = start(FEDKD, "compare", "seeds.toml", "--ray", "--out", "there", cwd=tmp_path, environment=environment)
    until(lambda: any((tmp_path / "there" / CELLS).glob("*.json")), one)
    workers = cluster.nodes[1].workers()
    cluster.nodes.pop().kill()
    code, _, err = one.wait(timeout_s=ENDS_WITHIN_S)
    assert code == 0, err
    assert workers
    here = conduct_sweep(
        load_sweep(tmp_path / "seeds.toml", {}), tmp_path / "here", functools.partial(run_locally, workers=2)
    )
    there = [CellResult.read(path) for path in sorted((tmp_path / "there" / CELLS).glob("*.json"))]
    assert len(there) == 4
    assert sorted(map(figures, there)) == sorted(map(figures, here))


def figures(cell: CellResult) -> str:
    """What does not depend on the clock or the machine."""
    return repr((cell.error, cell.labels, cell.series, cell.confusion, cell.summary["metric_per_client"]))


def until(is_so: Callable[[], bool], one: Started, *, timeout_s: float = ENDS_WITHIN_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        if one.process.poll() is not None or time.monotonic() > deadline:
            one.process.kill()
            pytest.fail(f"it did not get that far: {one.wait()}")
        time.sleep(0.02)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def child_of(parent: int) -> int:
    (child,) = [pid for pid, (state, above, _) in processes() if above == parent and state != "Z"]
    return child


def members(group: int) -> list[int]:
    """The living processes of a process group."""
    return [pid for pid, (state, _, found) in processes() if found == group and state != "Z"]


def processes() -> Iterator[tuple[int, tuple[str, int, int]]]:
    """Process id, state, parent and process group of everyone."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            state, parent, group = path.read_text().rpartition(")")[2].split()[:3]
            yield int(path.parent.name), (state, int(parent), int(group))


def title(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    return ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port

"""The benchmark of scale, at tiny sizes: what is run, what is read off it, and what is claimed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from fedkd.bench import processes, scale
from fedkd.bench.processes import Watched, tree_pss, watch
from fedkd.bench.scale import Case, Measured, cases, flower_adds, growth, measure
from fedkd.bench.workload import Drawn, DrawnConfig
from fedkd.cli import app
from fedkd.compose import compose
from fedkd.errors import FedKDError


def measured(engine: str, clients: int, round_s: float, *, workers: int = 1, cohort: int = 0) -> Measured:
    rest = {"overhead_s": 0.1, "first_round_s": 1.0, "before_s": 2.0, "after_s": 3.0}
    sizes = {"uplink_bytes": 4, "downlink_bytes": 5, "header_bytes": 6, "peak_pss_bytes": 7, "peak_processes": 8}
    case = Case(engine=engine, clients=clients, workers=workers, cohort=cohort)
    client_ms = 1e3 * round_s / clients
    return Measured(**asdict(case), round_s=round_s, client_ms=client_ms, **rest, **sizes)  # type: ignore[arg-type]


# The workload.


def test_every_client_takes_as_many_rows_and_they_may_overlap() -> None:
    dealt = Drawn(DrawnConfig(rows=64)).assign(
        np.zeros(100, np.int64), num_clients=50, num_classes=10, rng=np.random.default_rng(0)
    )
    assert len(dealt) == 50
    assert all(len(set(rows)) == 64 and (np.diff(rows) > 0).all() for rows in dealt)


def test_the_experiment_is_one_that_fedkd_runs(repo_root: Path) -> None:
    experiment = compose(experiment=str(repo_root / scale.EXPERIMENT))
    assert (experiment.model.hidden, experiment.schedule.lr, experiment.filter.name) == (16, 0.01, "accept_all")


# What is measured.


def test_each_size_is_run_on_both_engines() -> None:
    found = cases(clients=(10, 100), plain=(10,), cohorts=(25,), full=True, flower=True)
    assert [(case.engine, case.clients, case.workers, case.cohort) for case in found] == [
        ("local", 10, 1, 0),
        ("local", 100, 1, 0),
        ("local", 10_000, 1, 0),
        ("local", 10, 2, 0),
        ("flower", 10, 2, 0),
        ("local", 100, 2, 0),
        ("flower", 100, 2, 0),
        ("flower", 10, 2, 1),
        ("flower", 100, 2, 25),
    ]
    assert {case.engine for case in cases(clients=(10,), plain=(), cohorts=(), full=False, flower=False)} == {"local"}


def test_a_run_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: Any = {"data.max_train": 200, "partition.rows": 8, "proxy.max_samples": 20}
    found = measure(repeats=1, rounds=2, clients=(3,), flower=False, keys=keys)
    (case,) = found["cases"]
    assert (case["engine"], case["clients"], case["workers"]) == ("local", 3, 1)
    assert case["uplink_bytes"] == 3 * 20 * (10 * 4 + 4)
    assert case["client_ms"] == pytest.approx(1e3 * case["round_s"] / 3)
    assert 0 < case["overhead_s"] < case["round_s"]
    assert min(case["before_s"], case["after_s"]) > 0
    if sys.platform == "linux":
        assert case["peak_pss_bytes"] > 50e6
    assert found["growth"] is None
    assert found["command"] == "fedkd bench scale --json --repeats 1 --rounds 2 --clients 3 --no-flower"


def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(FedKDError, match=r"`fedkd run nowhere\.toml` failed:\n(.|\n)*nowhere"):
        watch(["run", "nowhere.toml"], lines_of=tmp_path / "timings.jsonl")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_that_of_all_processes() -> None:
    hungry = "import subprocess, sys; x = b'x' * 30_000_000; print(flush=True); sys.stdin.read()"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {hungry!r}]).wait()"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        size, number = tree_pss(process.pid)
        process.communicate(b"")
    assert number == 2
    assert size > 30_000_000
    assert tree_pss(process.pid) == (0, 0)


def test_lines_are_dated_when_they_come(tmp_path: Path) -> None:
    seen, path = Watched(0.0), tmp_path / "timings.jsonl"
    for text, expected in (("", 0), ("a\n", 1), ("a\nb\nc", 2)):
        path.write_text(text)
        processes._count(path, seen.lines, 0.0)
        assert len(seen.lines) == expected
    os.unlink(path)
    processes._count(path, seen.lines, 0.0)


# What is claimed.


def test_growth_is_that_of_one_client() -> None:
    found = [measured("local", 100, 1.0), measured("local", 1000, 12.0), measured("flower", 1000, 99.0, workers=2)]
    assert growth(found) == {"clients": 1000, "against": 100, "ratio": pytest.approx(1.2)}
    assert growth(found[1:]) is None


def test_flower_is_compared_with_as_many_workers() -> None:
    found = [
        measured("local", 10, 9.0),
        measured("local", 10, 1.0, workers=2),
        measured("flower", 10, 1.3, workers=2),
        measured("flower", 10, 3.0, workers=2, cohort=1),
    ]
    adds = flower_adds(found)
    assert [(each["adds_s"], each["cohort"]) for each in adds] == [(pytest.approx(0.3), 0), (2.0, 1)]
    assert adds[0]["allowed_s"] == pytest.approx(0.4)


def test_the_command_prints_a_table_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    every = [measured("local", 100, 1.0), measured("local", 1000, 12.0), measured("local", 10, 1.0, workers=2)]
    every += [measured("flower", 10, 3.0, workers=2, cohort=1)]
    found = {
        "cases": [asdict(each) for each in every],
        "growth": growth(every),
        "flower_adds": flower_adds(every),
        "repeats": 1,
        "machine": {"processor": "a processor", "cores": 2},
    }
    given: list[Any] = []
    monkeypatch.setattr(scale, "measure", lambda **options: given.append(options) or found)
    said = CliRunner().invoke(app, ["bench", "scale", "--plain", "--clients", "7"], env={"COLUMNS": "200"})
    assert said.exit_code == 0
    assert "a client costs 1.20x at 1,000 clients as at 100" in said.output
    assert "Flower, 1 a node, adds 2.000 s to a round of 10 clients: MORE THAN 0.400 s" in said.output
    assert (given[0]["clients"], given[0]["plain"]) == ([7], (10, 100))
    assert json.loads(CliRunner().invoke(app, ["bench", "scale", "--json"]).stdout) == found

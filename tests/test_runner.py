"""A run from start to report."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from fedkd import metric_names as m
from fedkd import runner
from fedkd.errors import MissingExtraError, RunError
from fedkd.experiment import Experiment, load_file
from tests.harness import events, experiment

CHANGES = {"num_clients": 5, "rounds": 2}


def test_a_run_leaves_everything_in_its_folder(tmp_path: Path) -> None:
    heard: list[Any] = []
    summary = runner.run(experiment("edgefd", CHANGES), tmp_path / "deep" / "run", listeners=[heard.append])
    out = tmp_path / "deep" / "run"
    assert {path.name for path in out.iterdir()} == {
        "checkpoints",
        "config.toml",
        "env.json",
        "metrics.jsonl",
        "partition.npz",
        "plots",
        "report.html",
        "state",
        "summary.json",
        "timings.jsonl",
    }
    assert json.loads((out / "summary.json").read_text()) == summary
    numbers = events(out)
    assert summary["acc_mean_final"] == numbers[2][m.ACC_MEAN]
    assert summary["upload_bytes"] == sum(numbers[r][m.UPLINK_BYTES] for r in range(3))
    assert summary["engine"] == "local"
    assert [event["round_id"] for event in heard if m.GOOD_REPLIES in event] == [0, 1, 2]
    assert "acc" in (out / "report.html").read_text()


def test_the_config_of_a_run_gives_the_same_experiment(tmp_path: Path) -> None:
    chosen = experiment("edgefd", CHANGES)
    out = runner.start_run(chosen, tmp_path / "run").folder
    assert Experiment.build(load_file(out.config_toml)).flat() == chosen.flat()
    assert (
        runner.open_run(tmp_path / "run").plan.partition.digest
        == runner.start_run(chosen, tmp_path / "b").plan.partition.digest
    )


def test_without_the_extra_there_is_a_summary_and_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(folder: object) -> None:
        raise MissingExtraError("plots need `fedkd[viz]`")

    monkeypatch.setattr(runner, "write_report", refuse)
    with caplog.at_level(logging.WARNING):
        runner.run(experiment("fd", CHANGES), tmp_path / "run")
    assert caplog.messages == ["no plots and no report: plots need `fedkd[viz]`"]
    assert (tmp_path / "run" / "summary.json").is_file()


def test_two_processes_do_not_go_on_with_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runner.start_run(experiment("fd", CHANGES), tmp_path / "run")
    faults: list[RunError] = []

    def intrude(folder: object) -> None:
        # A second file handle is a second process, as far as the lock is concerned.
        try:
            runner.conduct_locally(run)
        except RunError as error:
            faults.append(error)

    monkeypatch.setattr(runner, "write_report", intrude)
    runner.conduct_locally(run)
    assert len(faults) == 1
    assert "another process is running" in str(faults[0])

"""Whole runs of tasks other than classification: data and models from outside, in few rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkd import metric_names as m
from fedkd.combinations import metric_of
from fedkd.report.console import summary_table
from fedkd.report.folder import RunFolder
from fedkd.report.summary import read_summary
from fedkd.runner import conduct_locally, start_run
from tests.harness import events, experiment, watch

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SHORT: dict[str, Any] = {
    "num_clients": 2,
    "rounds": 2,
    "partition.name": "iid",
    "filter.name": "accept_all",
    "schedule.private_steps": 20,
}
RUNS: dict[str, dict[str, Any]] = {
    "segmentation": {"data.name": "tests.doubles:scenes", "model.name": "seg_net", "task.stride": 2},
    "language": {"data.name": "tests.doubles:sentences", "model.name": "fedkd.testing.worlds:bigram", "task.pad": 11},
    "image_text": {"data.name": "tests.doubles:pairs", "model.name": "fedkd.testing.worlds:pair_net"},
}


@pytest.mark.parametrize("task", RUNS)
def test_clients_learn_it_and_are_judged_by_its_metric(task: str, tmp_path: Path) -> None:
    chosen = experiment(changes={**SHORT, "task.name": task, **RUNS[task]})
    summary = conduct_locally(start_run(chosen, tmp_path / "run"))
    name, higher = metric_of(chosen)
    assert (summary["metric_name"], summary["metric_higher_is_better"]) == (name, higher)
    numbers = events(tmp_path / "run")
    first, last = (numbers[round_id][m.SCORE_MEAN] for round_id in (0, 2))
    assert last > first if higher else last < first
    assert all(numbers[r][m.GOOD_REPLIES] == 2 and not numbers[r][m.REJECTED] for r in range(3))
    assert numbers[0][m.COVERAGE] == 1  # of the rows that count
    best = max if higher else min
    assert summary["metric_mean_best"] == best(numbers[r][m.SCORE_MEAN] for r in range(3))
    if name != "acc":
        assert numbers[0][m.SCORE_NAME] == name
        assert any(key.startswith(m.FIGURES_PREFIX) for key in numbers[0])
        assert name in str(summary_table([summary]).caption)
        assert read_summary(RunFolder.open(tmp_path / "run")) == summary


def test_rows_that_do_not_count_are_never_sent(tmp_path: Path) -> None:
    fleet = watch(experiment(changes={**SHORT, "task.name": "language", **RUNS["language"]}), tmp_path / "run")
    answers = fleet.rounds()[0].answers()
    proxy = int(events(tmp_path / "run")[-1][m.PROXY_SAMPLES])
    for parcel in answers.values():
        ids = next(array for name, array in parcel.arrays.items() if name.endswith("/ids"))
        assert len(np.unique(ids)) == len(ids) < proxy * 24
        assert ((ids % 24 >= 5) & (ids % 24 < 23)).all()  # the first six tokens are a prompt, the last has no next one

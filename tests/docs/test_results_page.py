from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from fedkd.errors import DataError
from fedkd.report.results import append_result, latest, make_record, read_results, spread

SUMMARY = {
    "preset": "edgefd",
    "method": "soft_targets",
    "scheme": "mean",
    "dataset": "digits",
    "partition": "strong",
    "num_clients": 10,
    "rounds": 3,
    "engine": "local",
    "metric_name": "acc",
    "metric_mean_final": 0.5,
    "metric_mean_best": 0.75,
    "acc_mean_final": 0.5,
    "acc_mean_best": 0.75,
    "metric_std_clients_final": 0.1,
    "upload_bytes": 100,
    "download_bytes": 200,
    "accept_rate_own": None,
    "accept_rate_foreign": None,
    "coverage": 1.0,
    "purity": 1.0,
    "seconds_total": 1.5,
    "peak_rss_bytes": 1000,
}
ENVIRONMENT = {
    "git_commit": "abc",
    "git_dirty": False,
    "cpu_count": 2,
    **dict.fromkeys(("fedkd", "flwr", "torch", "numpy", "python"), "1.0"),
}


def record(*overrides: str, final: tuple[float, ...] = (0.5, 0.7)) -> dict[str, object]:
    summaries = [{**SUMMARY, "acc_mean_final": value} for value in final]
    return make_record(
        experiment="x", overrides=overrides, seeds=range(len(final)), summaries=summaries, environment=ENVIRONMENT
    )


def test_the_page_is_what_the_records_say(repo_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, repo_root / "docs" / "build_tables.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_record_tells_how_to_repeat_it() -> None:
    made = record("partition.name=weak")
    assert made["command"] == "python simulations/measure.py x -c partition.name=weak --seeds 0 1"
    assert made["commit"] == "abc"
    assert made["figures"]["acc_mean_final"] == {
        "mean": 0.6,
        "sd": pytest.approx(0.1414, abs=1e-4),
        "values": [0.5, 0.7],
    }
    assert made["figures"]["accept_rate_own"] is None


def test_one_value_has_no_spread() -> None:
    assert spread([0.5]) == {"mean": 0.5, "sd": None, "values": [0.5]}
    assert spread([0.5, None]) is None


def test_records_are_appended_and_the_latest_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert read_results(path) == []
    for made in (record("a=1", final=(0.1,)), record("b=1"), record("a=1", final=(0.9,))):
        append_result(path, made)
    found = read_results(path)
    assert [r["figures"]["acc_mean_final"]["mean"] for r in found] == [0.1, 0.6, 0.9]
    assert [r["overrides"] for r in latest(found)] == [["a=1"], ["b=1"]]
    assert latest(found)[0]["figures"]["acc_mean_final"]["mean"] == 0.9


def test_a_damaged_results_file_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{")
    with pytest.raises(DataError, match="is no JSON"):
        read_results(path)
    path.write_text("{}")
    with pytest.raises(DataError, match="expected a list"):
        read_results(path)


def test_a_card_shows_chosen_figures_of_one_experiment(
    repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(repo_root / "docs")
    build_tables = importlib.import_module("build_tables")
    reported = [{"train/auroc": 0.75}, {"train/auroc": 0.85}]
    made = make_record(
        experiment="methods/x_pool",
        overrides=["method.select=random"],
        seeds=[0, 1],
        summaries=[SUMMARY, SUMMARY],
        environment=ENVIRONMENT,
        reported=reported,
    )
    monkeypatch.setattr(build_tables, "read_results", lambda path: [record(), made])
    monkeypatch.setattr(build_tables, "RESULTS", tmp_path)
    (tmp_path / "x.json").touch()
    page = "a\n<!-- figures: x methods/x_pool | metric_mean_final, train/auroc -->\nold\n<!-- end -->\nb"
    table = build_tables.render(page).splitlines()
    assert table[2] == "| setting | acc, final | auroc | seeds |"
    assert table[4] == "| `method.select=random` | 0.5000 ± 0.0000 | 0.8000 ± 0.0707 | 0, 1 |"
    assert len([line for line in table if line.startswith("|")]) == 3  # the other experiment's record is not shown
    assert table[-2:] == ["<!-- end -->", "b"]
    for wrong, said in (
        (page.replace("train/auroc", "train/aurocc"), r"has train/aurocc; correct the block's names"),
        (page.replace("figures: x", "figures: y"), r"no simulations/results/y\.json"),
        (page.replace("<!-- end -->", "", 1), "has no `<!-- end -->`"),
    ):
        with pytest.raises(DataError, match=said):
            build_tables.render(wrong)

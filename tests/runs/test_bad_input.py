"""What is wrong is told in one readable error, before anything is on the disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedkd import runner
from fedkd.errors import ConfigError, DataError, FedKDError, RunError
from tests.harness import StoppedError, experiment, watch

WRONG: list[tuple[Mapping[str, Any], str]] = [
    (
        {"data.name": "tests.doubles:digits_with_nan"},
        "1 of 1437 inputs hold NaN or infinite values, the first at index 17",
    ),
    ({"model.num_outputs": 9}, "the data have 10 classes; set model.num_outputs = 10"),
    ({"num_clients": 11}, "num_clients is 11, but partition 'strong' has only 10 classes to deal out"),
    ({"num_clients": 0}, "num_clients .*is 0, expected at least 1"),
    ({"round": 3}, "unknown key 'round'.*did you mean 'rounds'"),
    ({"filter.quantil": 0.5}, "unknown key 'filter.quantil'.*did you mean 'quantile'"),
    ({"method.temperature": 0}, "method.temperature .*is 0.0, expected greater than 0"),
    ({"method.name": "nowhere.at_all:Trainer"}, "module 'nowhere.at_all' cannot be imported"),
    ({"preset": "edgefdd"}, "did you mean 'edgefd'"),
    ({"scheme.name": "dsfl"}, "scheme 'dsfl' combines probs"),
    ({"engine.min_good_replies": 99}, "engine.min_good_replies is 99, but a round has only 10 clients"),
    ({"rounds": "many"}, "rounds .*is 'many', expected a whole number"),
]


def contents(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize(("changes", "words"), WRONG, ids=[str(dict(changes)) for changes, _ in WRONG])
def test_a_wrong_experiment_leaves_nothing_behind(changes: Mapping[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, DataError), match=words) as caught:
        runner.run(experiment("edgefd", changes), tmp_path / "deep" / "run")
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == []


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    with pytest.raises(FedKDError, match="exists already; choose another --out"):
        runner.run(experiment(), tmp_path / "run")
    assert contents(tmp_path) == [tmp_path / "run", tmp_path / "run" / "thesis.tex"]


def test_a_folder_below_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FedKDError, match="cannot be made: Not a directory"):
        runner.run(experiment(), tmp_path / "file" / "run")
    assert contents(tmp_path) == [tmp_path / "file"]


def test_only_a_run_can_be_resumed(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none", "does not exist"), (tmp_path, "no run folder: it has no config.toml")):
        with pytest.raises(FedKDError, match=words):
            runner.resume(path)
    assert contents(tmp_path) == []


def stopped(out: Path) -> Path:
    """A run that was stopped before round 1."""
    with pytest.raises(StoppedError):
        watch(experiment("edgefd", {"num_clients": 5, "checkpoint.every": 1}), out, stop_before=2 + 1)
    return out


@pytest.mark.parametrize(
    ("victim", "words"),
    [
        ("config.toml", "no valid TOML"),
        ("partition.npz", "partition file .* cannot be read"),
        ("checkpoints/setting.safetensors", "the set-up cannot be used: .*; start the run anew"),
        ("metrics.jsonl", "it was changed since: restore it, or start a new run"),
    ],
)
def test_a_damaged_run_says_what_is_damaged(victim: str, words: str, tmp_path: Path) -> None:
    path = stopped(tmp_path / "run") / victim
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(FedKDError, match=words):
        runner.resume(tmp_path / "run")


def test_a_run_is_not_resumed_with_another_partition(tmp_path: Path) -> None:
    out = stopped(tmp_path / "run")
    config = out / "config.toml"
    config.write_text(config.read_text().replace("num_clients = 5", "num_clients = 4"))
    with pytest.raises(RunError, match="a worker holds partition"):
        runner.resume(out)


def test_lost_states_fail_their_clients_with_a_reason(tmp_path: Path) -> None:
    out = stopped(tmp_path / "run")
    for path in (out / "state").glob("round-*/*"):
        path.unlink()
    with pytest.raises(
        FedKDError, match=r"round 1: 0 good replies.*state .* cannot be read from .*resume from an earlier"
    ):
        runner.resume(out)

"""A search over settings, on a validation split."""

from pathlib import Path

import pytest

from fedkd.compose import parse_overrides
from fedkd.errors import ConfigError
from fedkd.sweep.tune import Range, Search, tune
from fedkd.types import Scalar


def value(text: str) -> Scalar:
    return parse_overrides([f"x={text}"])["x"]


def parsed(text: str) -> Range:
    return Range.parse(text, value)


def test_ranges_by_hand() -> None:
    assert parsed("schedule.lr=log:1e-4..1e-1") == Range(key="schedule.lr", low=1e-4, high=0.1, is_log=True)
    assert parsed("model.hidden = 8..64") == Range(key="model.hidden", low=8, high=64, is_whole=True)
    assert parsed("method.loss=kl|mse") == Range(key="method.loss", choices=("kl", "mse"))
    assert parsed("model.hidden=16|32").choices == (16, 32)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("schedule.lr", "no search range"),
        ("schedule.lr=0.1", "nothing to choose"),
        ("schedule.lr=log:0..1", "needs numbers above 0"),
        ("schedule.lr=2..1", "smaller one first"),
        ("schedule.lr=a..b", "expected two numbers"),
    ],
)
def test_what_is_no_range_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parsed(text)


SMALL = {"rounds": 2, "schedule.private_steps": 3, "num_clients": 3, "data.max_train": 120, "partition.name": "iid"}


def search(**changes: object) -> Search:
    given = {
        "experiment": "",
        "overrides": SMALL,
        "trials": 2,
        "validation": 0.3,
        "space": [parsed("schedule.lr=log:1e-3..1e-1")],
    }
    return Search(**{**given, **changes})


def test_a_study_is_kept_and_gone_on_with(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    told: list[str] = []
    best = tune(search(), tmp_path / "study", told=told.append)
    assert 1e-3 <= best["schedule.lr"] <= 1e-1
    assert len(told) == 2
    tune(search(trials=3), tmp_path / "study", told=told.append)
    assert len(told) == 3  # one more, not three


def test_it_never_looks_at_the_test_set(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    with pytest.raises(ConfigError, match="chosen on a validation split"):
        tune(search(validation=0.0), tmp_path / "study")


def test_a_wrong_key_is_told_before_the_first_trial(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    with pytest.raises(ConfigError, match=r"unknown key 'schedule\.lrr'"):
        tune(search(space=[parsed("schedule.lrr=log:1e-3..1e-1")]), tmp_path / "study")
    assert not (tmp_path / "study").exists()

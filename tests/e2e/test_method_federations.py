"""Each method with an experiment of its own, through Flower: the same numbers as in this process.

About 30 s each, so the experiments are cut short here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedkd.compose import SIMULATIONS
from fedkd.methods import METHODS
from fedkd.types import Scalar
from tests.e2e.conftest import FEDKD, Start

pytestmark = pytest.mark.e2e

SHORT: dict[str, Scalar] = {"rounds": 1, "schedule.private_steps": 4, "data.max_train": 120, "data.max_test": 40}
OWN: dict[str, dict[str, Scalar]] = {  # what a method does before the first round, shortened
    "wad": {"method.teacher_epochs": 1},
    "adaspec": {"method.target_steps": 5, "method.eval_prompts": 4, "method.count_prompts": 2},
    "mst_distill": {"method.cotrain_epochs": 1, "method.mask_epochs": 1},
    "skd_cag": {"method.home_steps": 10, "method.eval_samples": 4},
}
NAMES = [name for name in METHODS if (SIMULATIONS / "methods" / f"{name}.toml").is_file()]


@pytest.mark.parametrize("name", NAMES)
def test_numbers_equal_those_of_the_local_engine(
    name: str, start: Start, tmp_path: Path, straight: Callable[..., Path]
) -> None:
    keys = SHORT | OWN.get(name, {})
    given = [part for key, value in keys.items() for part in ("-c", f"{key}={value}")]
    file = SIMULATIONS / "methods" / f"{name}.toml"
    started = start(FEDKD, "run", str(file), "--engine", "flower", *given, "--out", "run", cwd=tmp_path)
    code, _, err = started.wait(timeout_s=240)
    assert code == 0, err
    assert started.gone() == set()
    expected = straight(experiment=str(file), **keys) / "metrics.jsonl"
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == expected.read_bytes()

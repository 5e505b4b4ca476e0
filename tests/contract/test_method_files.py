"""What belongs to a method beside its code, so that a table line is never all there is."""

from pathlib import Path

import pytest

from fedkd.compose import SIMULATIONS, compose, experiment_names
from fedkd.experiment import load_file
from fedkd.federation.preflight import preflight
from fedkd.methods import METHODS
from fedkd.presets import PRESETS

EXPERIMENTS = experiment_names()
MOST_LINES = 400
IN_PRESETS = {str(preset.values.get("method.name", "soft_targets")) for preset in PRESETS.values()}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_a_card_a_test_and_an_experiment(name: str, repo_root: Path) -> None:
    card = (repo_root / "docs" / "methods" / f"{name}.md").read_text()
    assert card.startswith(f"# {name}\n")
    for heading in ("## Equation", "## Knobs", "## Cost", "## Deviations"):
        assert heading in card, heading
    tests = repo_root / "tests" / "methods"
    assert (tests / f"test_{name}.py").is_file() or list((tests / name).glob("test_*.py"))
    if name not in IN_PRESETS:
        assert f"methods/{name}" in EXPERIMENTS
        assert f"methods/{name}_gpu" in EXPERIMENTS


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_can_be_composed(name: str) -> None:
    chosen = compose(experiment=name, overrides={"the test": {"data.root": "/nowhere"}})
    assert chosen.check() is chosen


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name.startswith("methods/") and "_gpu" not in name])
def test_the_small_experiments_of_methods_pass_every_check_before_a_run(name: str) -> None:
    if load_file(SIMULATIONS / f"{name}.toml").get("data.name", "digits") in {"camvid", "shakespeare", "gsm8k"}:
        pytest.skip("needs data that are not embedded")
    preflight(compose(experiment=name))


def test_no_file_is_longer_than_it_may_be(repo_root: Path) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in (repo_root / "fedkd").rglob("*.py")}
    assert lengths
    assert {path: lines for path, lines in lengths.items() if lines > MOST_LINES} == {}

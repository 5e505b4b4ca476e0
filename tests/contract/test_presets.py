"""What every preset in the table must keep."""

import pytest

from fedkd.experiment import Experiment
from fedkd.presets import PRESETS, preset_values

pytestmark = pytest.mark.parametrize("name", PRESETS)


def test_it_builds_and_its_choices_go_together(name: str) -> None:
    experiment = Experiment.build(preset_values(name)).check()
    assert experiment.core.preset == name


def test_its_text_is_one_line(name: str) -> None:
    summary = PRESETS[name].summary
    assert summary == " ".join(summary.split())
    assert 10 < len(summary) <= 120
    assert not summary.endswith(".")


def test_every_key_that_it_sets_is_one_that_the_experiment_has(name: str) -> None:
    flat = Experiment.build(preset_values(name)).flat()
    assert {key: flat[key] for key in PRESETS[name].values} == PRESETS[name].values


def test_it_comes_back_from_flat_keys(name: str) -> None:
    first = Experiment.build(preset_values(name))
    again = Experiment.build(first.flat())
    assert again.flat() == first.flat()

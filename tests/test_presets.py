import pytest

from fedkd.errors import ConfigError
from fedkd.experiment import CoreConfig, Experiment
from fedkd.presets import PRESETS, preset_values


def test_the_default_preset_is_there() -> None:
    assert CoreConfig().preset in PRESETS


def test_a_preset_names_itself() -> None:
    values = preset_values("dsfl")
    assert values["preset"] == "dsfl"
    assert values["scheme.name"] == "dsfl"


def test_an_unknown_preset_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"preset is 'edgfd'; did you mean 'edgefd'\?") as caught:
        preset_values("edgfd")
    assert caught.value.key == "preset"
    assert all(name in str(caught.value) for name in PRESETS)


def test_floor_and_ceiling_exchange_nothing() -> None:
    for name in ("local_only", "centralised"):
        assert Experiment.build(preset_values(name)).scheme.cls.spaces == frozenset()
    assert Experiment.build(preset_values("centralised")).core.num_clients == 1

from typing import Any

import pytest

from fedkd.errors import ConfigError
from fedkd.models.build import architecture_of
from fedkd.models.config import ModelConfig


def test_names_are_dealt_out_in_turn() -> None:
    config = ModelConfig(name="small, large,mlp")
    assert config.names == ("small", "large", "mlp")
    assert [architecture_of(config, i) for i in range(5)] == ["small", "large", "mlp", "small", "large"]


@pytest.mark.parametrize(
    "wrong",
    [{"hidden": 0}, {"num_outputs": -1}, {"dropout": 1.0}, {"dropout": -0.1}, {"options": "a=1"}, {"options": "[1]"}],
)
def test_values_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig(**wrong)
    assert caught.value.key == next(iter(wrong))


def test_options_are_keyword_arguments() -> None:
    assert ModelConfig().arguments == {}
    assert ModelConfig(options='{"n_layer": 1}').arguments == {"n_layer": 1}


def test_weights_fit_one_architecture() -> None:
    with pytest.raises(ConfigError, match="name lists 2 models; weights fit one architecture") as caught:
        ModelConfig(name="mlp,cnn", weights="x.safetensors")
    assert caught.value.key == "weights"

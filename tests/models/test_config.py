import pytest

from fedkd.errors import ConfigError
from fedkd.models.build import architecture_of
from fedkd.models.config import ModelConfig


def test_names_are_dealt_out_in_turn() -> None:
    config = ModelConfig(name="small, large,mlp")
    assert config.names == ("small", "large", "mlp")
    assert [architecture_of(config, i) for i in range(5)] == ["small", "large", "mlp", "small", "large"]


@pytest.mark.parametrize("wrong", [{"hidden": 0}, {"num_outputs": -1}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_values_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig(**wrong)  # type: ignore[arg-type]
    assert caught.value.key == next(iter(wrong))

import pytest
import torch

from fedkd.models.config import ModelConfig
from fedkd.models.mlp import build_mlp
from fedkd.models.spec import ModelSpec


@pytest.mark.parametrize("shape", [(4,), (1, 8, 8), (3, 2, 2)])
def test_any_input_shape_gives_one_logit_per_output(shape: tuple[int, ...]) -> None:
    model = build_mlp(ModelConfig(hidden=16), ModelSpec(input_shape=shape, num_outputs=10))
    assert model(torch.zeros(5, *shape)).shape == (5, 10)


def test_one_hidden_layer_of_the_configured_width() -> None:
    model = build_mlp(ModelConfig(hidden=16), ModelSpec(input_shape=(1, 8, 8), num_outputs=10))
    assert sum(p.numel() for p in model.parameters()) == 64 * 16 + 16 + 16 * 10 + 10

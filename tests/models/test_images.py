import pytest
import torch
from torch import nn

from fedkd.errors import ConfigError
from fedkd.models.images import for_channels, inner, require_images
from fedkd.models.spec import ModelSpec


def test_grey_is_repeated_to_three_channels() -> None:
    model = nn.Conv2d(3, 2, 1)
    grey = for_channels(model, ModelSpec(input_shape=(1, 4, 4), num_outputs=2))
    x = torch.linspace(0, 1, 32).reshape(2, 1, 4, 4)
    torch.testing.assert_close(grey(x), model(torch.cat([x, x, x], dim=1)))
    assert inner(grey) is model


def test_colour_is_left_alone() -> None:
    model = nn.Conv2d(3, 2, 1)
    assert for_channels(model, ModelSpec(input_shape=(3, 4, 4), num_outputs=2)) is model is inner(model)


@pytest.mark.parametrize(
    "spec", [ModelSpec(input_shape=(4,), num_outputs=2), ModelSpec(input_shape=(1, 2, 3), num_outputs=2, dtype="int32")]
)
def test_other_inputs_are_refused(spec: ModelSpec) -> None:
    with pytest.raises(ConfigError, match=r"is 'x', which takes images .* but the data have") as caught:
        require_images("x", spec)
    assert caught.value.key == "name"

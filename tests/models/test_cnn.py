from collections.abc import Callable

import pytest
import torch
from torch import nn

from fedkd.errors import ConfigError
from fedkd.models.cnn import build_cnn, build_cnn_narrow, build_cnn_wide
from fedkd.models.config import ModelConfig
from fedkd.models.spec import ModelSpec

Build = Callable[..., nn.Module]


def build(make: Build = build_cnn, shape: tuple[int, ...] = (1, 28, 28), dropout: float = 0.0) -> nn.Module:
    return make(ModelConfig(dropout=dropout), ModelSpec(input_shape=shape, num_outputs=10))


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("shape", "width"),
    [((1, 28, 28), 20 * 4 * 4), ((3, 32, 32), 20 * 5 * 5), ((1, 16, 20), 20 * 1 * 2)],
)
def test_what_the_convolutions_leave(shape: tuple[int, ...], width: int) -> None:
    model = build(shape=shape)
    (flatten,) = [position for position, layer in enumerate(model) if isinstance(layer, nn.Flatten)]  # type: ignore[arg-type]
    x = torch.zeros(2, *shape)
    assert model[: flatten + 1](x).shape == (2, width)  # type: ignore[index]
    assert model(x).shape == (2, 10)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        # conv: outputs * (inputs * 25 + 1); linear: outputs * (inputs + 1)
        (build_cnn, 10 * 26 + 20 * 251 + 50 * 321 + 10 * 51),
        (build_cnn_narrow, 5 * 26 + 10 * 126 + 50 * 161 + 10 * 51),
        (build_cnn_wide, 20 * 26 + 40 * 501 + 50 * 641 + 10 * 51),
    ],
)
def test_parameters_by_hand(make: Build, expected: int) -> None:
    assert num_parameters(build(make)) == expected
    if make is build_cnn:
        assert expected == 21_840


def test_dropout_is_before_the_last_layer_and_in_training_only() -> None:
    model, x = build(dropout=0.5), torch.ones(1, 1, 28, 28)
    *_, dropout, last = model.children()
    assert isinstance(dropout, nn.Dropout)
    assert dropout.p == 0.5
    assert isinstance(last, nn.Linear)
    assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 15), (64,), (4, 28)])
def test_data_that_are_no_images_or_too_small_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"images .* of at least 16 x 16, but the data have shape") as caught:
        build(shape=shape)
    assert caught.value.key == "name"

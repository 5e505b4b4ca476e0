"""The small convolutional network of the Selective-FD and EdgeFD experiments on 28x28 grey images."""

from __future__ import annotations

from torch import nn

from fedkd.errors import ConfigError
from fedkd.models.config import ModelConfig
from fedkd.models.spec import ModelSpec

_SMALLEST = 16  # pixels a side of which the two convolutions leave one


def build_cnn(config: ModelConfig, spec: ModelSpec) -> nn.Module:
    """conv 5x5 to 10 channels, pool, ReLU; conv 5x5 to 20, pool, ReLU; 50 units, ReLU, dropout; `num_outputs` logits.

    Source: the Selective-FD code's MNIST model (10 and 20 channels; dropout 0.5 there, `model.dropout` here).
    """
    return _cnn(10, 20, config, spec)


def build_cnn_narrow(config: ModelConfig, spec: ModelSpec) -> nn.Module:
    """The CNN with half the channels, for heterogeneous clients."""
    return _cnn(5, 10, config, spec)


def build_cnn_wide(config: ModelConfig, spec: ModelSpec) -> nn.Module:
    """The CNN with twice the channels, for heterogeneous clients."""
    return _cnn(20, 40, config, spec)


def _cnn(first: int, second: int, config: ModelConfig, spec: ModelSpec) -> nn.Module:
    if len(spec.input_shape) != 3 or min(spec.input_shape[1:]) < _SMALLEST:
        raise ConfigError(
            f"names a cnn, which needs images (channels, height, width) of at least {_SMALLEST} x {_SMALLEST}, but the "
            f"data have shape {spec.input_shape}; choose mlp or, for small images, resnet8",
            key="name",
        )
    channels, *size = spec.input_shape
    body = nn.Sequential(
        nn.Conv2d(channels, first, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(first, second, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
    )
    width = second
    for length in size:
        width *= ((length - 4) // 2 - 4) // 2
    head = [nn.Linear(width, 50), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(50, spec.num_outputs)]
    return nn.Sequential(*body, *head)

"""The smallest reference model."""

from __future__ import annotations

import math

from torch import nn

from fedkd.models.config import ModelConfig


def build_mlp(config: ModelConfig, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
    """Flattened input, one hidden layer of `config.hidden` units with ReLU, `num_outputs` logits."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), config.hidden),
        nn.ReLU(),
        nn.Linear(config.hidden, num_outputs),
    )

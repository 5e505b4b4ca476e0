"""The smallest reference model."""

from __future__ import annotations

import math

from torch import nn

from fedkd.models.config import ModelConfig
from fedkd.models.spec import ModelSpec


def build_mlp(config: ModelConfig, spec: ModelSpec) -> nn.Module:
    """Flattened input, one hidden layer of `config.hidden` units with ReLU, `spec.num_outputs` logits."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(spec.input_shape), config.hidden),
        nn.ReLU(),
        nn.Linear(config.hidden, spec.num_outputs),
    )

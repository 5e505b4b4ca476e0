"""What adapters for image models share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fedkd.errors import ConfigError
from fedkd.models.spec import ModelSpec


class Repeated(nn.Module):
    """Grey to three channels, then the model: what most image models expect."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> Any:
        """The model's answer to grey images (n, 1, h, w)."""
        return self.model(x.expand(-1, 3, -1, -1))


def for_channels(model: nn.Module, spec: ModelSpec) -> nn.Module:
    """The model, taking the data's grey images where they are grey."""
    return Repeated(model) if spec.input_shape[0] == 1 else model


def inner(model: nn.Module) -> nn.Module:
    """The library's own module: what checkpoints are made of."""
    return model.model if isinstance(model, Repeated) else model


def require_images(name: str, spec: ModelSpec) -> None:
    """ConfigError unless the inputs are images."""
    if not spec.takes_images:
        raise ConfigError(
            f"is {name!r}, which takes images (channels, height, width), but the data have {spec.dtype} inputs of "
            f"shape {spec.input_shape}; choose a model for such data",
            key="name",
        )

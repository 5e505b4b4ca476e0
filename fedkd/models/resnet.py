"""Residual nets for small colour images."""

from __future__ import annotations

import torch
from torch import nn

from fedkd.models.config import ModelConfig
from fedkd.models.spec import ModelSpec


def build_resnet8(config: ModelConfig, spec: ModelSpec) -> nn.Module:
    """Residual net for 32x32 colour images, one block per stage (8 layers)."""
    return _resnet(1, config, spec)


def build_resnet14(config: ModelConfig, spec: ModelSpec) -> nn.Module:
    """Residual net for 32x32 colour images, two blocks per stage (14 layers)."""
    return _resnet(2, config, spec)


def build_resnet20(config: ModelConfig, spec: ModelSpec) -> nn.Module:
    """Residual net for 32x32 colour images, three blocks per stage (20 layers)."""
    return _resnet(3, config, spec)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; a strided block halves the size and doubles the channels."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inner, outer, 3, stride, 1, bias=False), _norm(outer), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(outer, outer, 3, 1, 1, bias=False), _norm(outer))
        is_same = inner == outer and stride == 1
        self.shortcut = nn.Identity() if is_same else nn.Conv2d(inner, outer, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (n, outer, h / stride, w / stride)."""
        out: torch.Tensor = torch.relu(self.second(self.first(x)) + self.shortcut(x))
        return out


def _norm(channels: int) -> nn.Module:
    # Groups, not batches: under label skew the statistics of private and proxy batches differ, and batch norm's
    # running averages fit neither.
    return nn.GroupNorm(min(8, channels), channels)


def _resnet(blocks: int, config: ModelConfig, spec: ModelSpec) -> nn.Module:
    """Three stages of `blocks` blocks with 16, 32 and 64 channels, after He et al. 2016, sec. 4.2, with group norm."""
    layers: list[nn.Module] = [nn.Conv2d(spec.input_shape[0], 16, 3, 1, 1, bias=False), _norm(16), nn.ReLU()]
    inner = 16
    for outer in (16, 32, 64):
        for number in range(blocks):
            layers.append(Block(inner, outer, stride=2 if number == 0 and outer > 16 else 1))
            inner = outer
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(config.dropout), nn.Linear(64, spec.num_outputs)]
    return nn.Sequential(*layers, *head)

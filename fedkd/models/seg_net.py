"""The smallest reference model for segmentation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedkd.models.config import ModelConfig
from fedkd.models.images import require_images
from fedkd.models.spec import ModelSpec


def build_seg_net(config: ModelConfig, spec: ModelSpec) -> nn.Module:
    """Convolutional encoder and decoder of `config.hidden` channels; logits (n, c, h / 2, w / 2), sizes rounded up."""
    require_images("seg_net", spec)
    return SegNet(spec.input_shape[0], config.hidden, spec.num_outputs, config.dropout)


class SegNet(nn.Module):
    """Two strided stages, one step back up with a shortcut, and a pixel-wise classifier.

    `stem` gives features (n, width, h / 2, w / 2), `down` (n, 2 width, h / 4, w / 4), `up` (n, width, h / 2, w / 2).
    """

    def __init__(self, channels: int, width: int, num_outputs: int, dropout: float) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_block(channels, width, stride=2), *_block(width, width))
        self.down = nn.Sequential(*_block(width, 2 * width, stride=2), *_block(2 * width, 2 * width))
        self.up = nn.Sequential(*_block(3 * width, width))
        self.head = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(width, num_outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images (n, channels, h, w)."""
        fine = self.stem(x)
        coarse = functional.interpolate(self.down(fine), size=fine.shape[2:], mode="nearest")
        logits: Tensor = self.head(self.up(torch.cat([fine, coarse], dim=1)))
        return logits


def _block(inner: int, outer: int, stride: int = 1) -> list[nn.Module]:
    # Groups, not batches, as in the residual nets: statistics of private and proxy batches differ under skew.
    norm = nn.GroupNorm(math.gcd(4, outer), outer)
    return [nn.Conv2d(inner, outer, 3, stride, 1, bias=False), norm, nn.ReLU()]

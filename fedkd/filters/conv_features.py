"""Features of a network that nobody trained: random convolutions, equal on every client."""

from __future__ import annotations

import math
from typing import final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from fedkd.data.base import Samples
from fedkd.errors import DataError
from fedkd.filters.features import FeatureMap, in_blocks
from fedkd.streams import stream
from fedkd.threads import one_torch_thread
from fedkd.types import Array

SMALLEST_SIDE = 8
_CHANNELS = (32, 64)
_GRID = 4  # cells a side that the last maps are averaged over; smaller maps are repeated
_SEED = 0  # of the weights: part of the map, never the experiment's seed, so that all clients have one


@final
class RandomConvFeatures(FeatureMap):
    """Two random 3x3 convolutions with ReLU and pooling, then a random projection to `dim` features.

    Images (channels, height, width) of any number of channels and at least 8 pixels a side. `fit` takes mean and
    standard deviation of each channel over the proxy set; the weights are drawn with a fixed seed.
    """

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._mean = torch.zeros(0)
        self._sd = torch.ones(0)
        self._kernels: tuple[Tensor, ...] = ()
        self._projection = torch.zeros(0)

    def fit(self, proxy: Samples) -> RandomConvFeatures:
        """Channel statistics, and the weights for that number of channels."""
        channels = _check_images(proxy.x, "random_conv")
        self._mean, self._sd = channel_statistics(proxy.x)
        kernels, before = [], channels
        for number, after in enumerate(_CHANNELS):
            kernels.append(_gaussian(f"kernel {number}", (after, before, 3, 3), fan_in=9 * before))
            before = after
        self._kernels = tuple(kernels)
        cells = before * _GRID * _GRID
        self._projection = _gaussian("projection", (cells, self._dim), fan_in=cells)
        return self

    def transform(self, x: Array) -> Array:
        """Features (n, dim)."""
        _check_images(x, "random_conv")
        with one_torch_thread(), torch.inference_mode():
            return in_blocks(self._forward, x, width=self._dim)

    def _forward(self, images: Array) -> Array:
        maps = (torch.from_numpy(images).float() - self._mean) / self._sd
        for kernel in self._kernels:
            maps = F.avg_pool2d(F.relu(F.conv2d(maps, kernel, padding=1)), 2)
        cells = F.adaptive_avg_pool2d(maps, _GRID).flatten(1)
        features: Array = (cells @ self._projection).numpy()
        return features


def channel_statistics(x: Array) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (channels, 1, 1) over images; a constant channel has 1 for the latter."""
    mean = x.mean(axis=(0, 2, 3), dtype=np.float64)
    sd = x.std(axis=(0, 2, 3), dtype=np.float64)
    sd = np.where(sd > 0.0, sd, 1.0)
    return tuple(torch.from_numpy(each.astype(np.float32)).reshape(-1, 1, 1) for each in (mean, sd))  # type: ignore[return-value]


def _gaussian(name: str, shape: tuple[int, ...], *, fan_in: int) -> Tensor:
    """Weights that keep the scale of what goes through them; numpy draws them, so that no torch version matters."""
    draws = stream(_SEED, f"random_conv/{name}").normal(size=shape) * math.sqrt(2.0 / fan_in)
    return torch.from_numpy(draws.astype(np.float32))


def _check_images(x: Array, features: str) -> int:
    """The number of channels; DataError where x is not (n, channels, height, width) with sides of at least 8."""
    if x.ndim != 4 or min(x.shape[2:]) < SMALLEST_SIDE:
        raise DataError(
            f"filter.features = '{features}' got inputs of shape {x.shape[1:]}, expected images (channels, height, "
            f"width) of at least {SMALLEST_SIDE} pixels a side; choose 'pixels' or 'pca'"
        )
    return int(x.shape[1])

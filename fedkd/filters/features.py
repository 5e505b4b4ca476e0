"""Feature maps: the space in which a filter compares samples. Pixels are none of them; they need no map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import final

import numpy as np

from fedkd.data.base import Samples
from fedkd.errors import ConfigError
from fedkd.filters.inputs import flat, flat_like
from fedkd.types import Array

FEATURES = ("pixels", "pca", "random_conv", "checkpoint")
BLOCK_ROWS = 128  # inputs that go through a map at a time
_EXACT_WIDTH = 1024  # more features than that get the randomised solver


class FeatureMap(ABC):
    """Turns inputs into features (n, d).

    A map is fitted on the shared proxy set, never on private data: so all clients of one proxy set compare in the same
    space, and nothing about a client's data is in the map. A row's features depend on that row alone.
    """

    @abstractmethod
    def fit(self, proxy: Samples) -> FeatureMap:
        """Learn what there is to learn from the proxy inputs; returns self."""

    @abstractmethod
    def transform(self, x: Array) -> Array:
        """Features (n, d) float32 of the inputs (n, ...)."""


def build_feature_map(features: str, *, dim: int, checkpoint: str, model: str) -> FeatureMap | None:
    """The map of the keys `filter.features`, `feature_dim`, `checkpoint` and `feature_model`; None for pixels."""
    if features == "pixels":
        return None
    if features == "pca":
        return PcaFeatures(dim)
    if features == "random_conv":
        from fedkd.filters.conv_features import RandomConvFeatures

        return RandomConvFeatures(dim)
    from fedkd.filters.checkpoint_features import CheckpointFeatures

    return CheckpointFeatures(Path(checkpoint), model)


def check_features(features: str, *, checkpoint: str, model: str) -> None:
    """ConfigError where `features` is checkpoint and its file or model is missing or of a kind that is not read."""
    if features != "checkpoint":
        return
    if not model:
        raise ConfigError(
            "is empty, expected the torchvision name of the checkpoint's model, such as 'resnet18'", key="feature_model"
        )
    if Path(checkpoint).suffix != ".safetensors":
        raise ConfigError(
            f"is {checkpoint!r}, expected a .safetensors file: other formats can run code when they are read; "
            "convert it with safetensors.torch.save_file(model.state_dict(), path)",
            key="checkpoint",
        )


def in_blocks(function: Callable[[Array], Array], x: Array, *, width: int) -> Array:
    """Rows (n, width) float32 of `function`, BLOCK_ROWS inputs at a time.

    Every block has the same shape, the last one padded with zeros: libraries choose their way by shape, and so a row's
    digits do not depend on how many others there are.
    """
    features = np.empty((len(x), width), np.float32)
    block = np.zeros((BLOCK_ROWS, *x.shape[1:]), x.dtype)
    for start in range(0, len(x), BLOCK_ROWS):
        part = x[start : start + BLOCK_ROWS]
        block[: len(part)] = part
        features[start : start + BLOCK_ROWS] = function(block)[: len(part)]
    return features


@final
class PcaFeatures(FeatureMap):
    """The first principal components of the proxy inputs: of `dim`, as many as inputs and pixels allow."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._mean: Array = np.zeros(0)
        self._components: Array = np.zeros((0, 0))

    def fit(self, proxy: Samples) -> PcaFeatures:
        """Find the components, on one thread and with a fixed seed: equal inputs give equal components."""
        from sklearn.decomposition import PCA
        from threadpoolctl import threadpool_limits

        x = flat(proxy)
        solver = "covariance_eigh" if x.shape[1] <= _EXACT_WIDTH else "auto"
        with threadpool_limits(1):
            model = PCA(min(self._dim, *x.shape), svd_solver=solver, random_state=0).fit(x.astype(np.float64))
        self._mean, self._components = model.mean_, model.components_.T
        return self

    def transform(self, x: Array) -> Array:
        """Coordinates (n, dim) on the components; not whitened."""
        rows = flat_like(Samples(x), len(self._mean), filter="pca")
        return in_blocks(lambda block: (block - self._mean) @ self._components, rows, width=self._components.shape[1])

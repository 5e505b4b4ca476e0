"""What the two density-ratio filters share: the auxiliary draws, the fitted ratio, and its threshold."""

from __future__ import annotations

from typing import final

import numpy as np

from fedkd.data.base import Samples
from fedkd.filters.inputs import flat_like
from fedkd.functional.kernel_density import kernel_sum, log_level, ratio_of
from fedkd.types import Array


def uniform_in_box(x: Array, size: int, rng: np.random.Generator) -> Array:
    """Draws (size, d) from the uniform density on the input box: one interval for all features, from x's least to
    its greatest value. They have x's type, so that they cost what the samples cost."""
    low, high = float(x.min()), float(x.max())
    return (low + (high - low) * rng.random((size, x.shape[1]))).astype(x.dtype)


@final
class Ratio:
    """r(x) as a weighted kernel sum, and the level of log r that is still accepted."""

    def __init__(self, points: Array, weights: Array, *, sigma: float, name: str) -> None:
        self._points = points
        self._weights = weights
        self._sigma = sigma
        self._name = name  # of the filter, for messages
        self._level = np.nan  # log of the threshold

    def levels(self, samples: Samples) -> Array:
        """log r (p,), with values for r <= 0: see `log_level`."""
        x = flat_like(samples, self._points.shape[1], filter=self._name)
        return log_level(*kernel_sum(x, self._points, self._weights, sigma=self._sigma))

    def accept_share(self, known: Array, q: float) -> None:
        """Set the threshold to the highest of the levels `known` that a share q of them reaches."""
        self._level = -float(np.quantile(-known, q, method="inverted_cdf"))

    def score(self, samples: Samples) -> Array:
        """r (p,)."""
        return ratio_of(self.levels(samples))

    def margin(self, samples: Samples) -> Array:
        """log(r / threshold) (p,)."""
        return self.levels(samples) - self._level

    @property
    def threshold(self) -> float:
        """r at the threshold."""
        return float(ratio_of(np.array([self._level]))[0])

    @property
    def kept_bytes(self) -> int:
        """Points, weights, width and threshold."""
        return self._points.nbytes + self._weights.nbytes + 16

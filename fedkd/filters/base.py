"""The contract of a client-side proxy filter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from fedkd.data.base import Samples
from fedkd.types import Array, Mask


class Filter(ABC):
    """Tells which samples resemble a client's own data.

    Input-space filters are fitted and calibrated once, before the first round; they cost nothing per round. A filter
    imports no torch unless its features need it. Construct with `cls(config, seed=...)`.
    """

    Config: ClassVar[type]
    needs_proxy_labels: ClassVar[bool] = False  # the oracle alone: an upper bound, never a method

    @abstractmethod
    def fit(self, private: Samples) -> Filter:
        """Learn from private samples (labels may be used); returns self."""

    @abstractmethod
    def calibrate(self, holdout: Samples) -> Filter:
        """Set the threshold on private samples that `fit` did not see; returns self."""

    @abstractmethod
    def score(self, proxy: Samples) -> Array:
        """Scores (p,), higher = more in-distribution."""

    @property
    @abstractmethod
    def threshold(self) -> float:
        """Scores at or above it are accepted."""

    def accept(self, proxy: Samples) -> Mask:
        """Mask (p,) of the accepted samples."""
        accepted: Mask = self.score(proxy) >= self.threshold
        return accepted

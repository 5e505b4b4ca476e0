"""The filter that knows: an upper bound for comparison, never a method, since it sees the labels of the proxy set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from fedkd.data.base import Samples
from fedkd.errors import DataError
from fedkd.filters.base import Filter
from fedkd.types import Array


@dataclass(frozen=True, kw_only=True)
class OracleConfig:
    """No option."""


@final
class Oracle(Filter):
    """Accepts the proxy samples whose label is among the classes that the client holds. One label per sample."""

    Config: ClassVar[type] = OracleConfig
    needs_proxy_labels: ClassVar[bool] = True

    def __init__(self, config: OracleConfig, *, seed: int) -> None:
        self._config = config
        self._seed = seed
        self._classes: Array = np.zeros(0, np.int64)

    def fit(self, private: Samples) -> Oracle:
        """Remember the classes."""
        self._classes = np.unique(_labels(private))
        return self

    def calibrate(self, holdout: Samples) -> Oracle:
        """Add the classes that `fit` did not see: a rare one may lie in the hold-out alone."""
        self._classes = np.union1d(self._classes, _labels(holdout))
        return self

    def score(self, proxy: Samples) -> Array:
        """1 where the client holds the sample's class, else 0."""
        return np.isin(_labels(proxy), self._classes).astype(np.float64)

    def margin(self, proxy: Samples) -> Array:
        """1 where the client holds the sample's class, else -1."""
        return 2.0 * self.score(proxy) - 1.0

    @property
    def threshold(self) -> float:
        """Between the two scores."""
        return 0.5


def _labels(samples: Samples) -> Array:
    labels = samples.labels if samples.groups is None else samples.groups
    if labels.ndim != 1:
        raise DataError(
            f"the oracle filter needs one label per sample, got labels of shape {labels.shape}; use another filter"
        )
    return labels

"""No filter: every client speaks for every sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from fedkd.data.base import Samples
from fedkd.filters.base import Filter
from fedkd.types import Array


@dataclass(frozen=True, kw_only=True)
class AcceptAllConfig:
    """No option."""


@final
class AcceptAll(Filter):
    """Scores every sample 1 and accepts it."""

    Config: ClassVar[type] = AcceptAllConfig

    def __init__(self, config: AcceptAllConfig, *, seed: int) -> None:
        self._config = config
        self._seed = seed

    def fit(self, private: Samples) -> AcceptAll:
        """Nothing to learn."""
        del private
        return self

    def calibrate(self, holdout: Samples) -> AcceptAll:
        """Nothing to set."""
        del holdout
        return self

    def score(self, proxy: Samples) -> Array:
        """Ones (p,)."""
        return np.ones(len(proxy))

    def margin(self, proxy: Samples) -> Array:
        """Ones (p,)."""
        return np.ones(len(proxy))

    @property
    def threshold(self) -> float:
        """0: no score is too low."""
        return 0.0

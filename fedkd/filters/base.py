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

    A threshold that accepts nothing is legal: the client then shares no row of the others' samples. Zero samples get
    zero scores. A sample's score and margin depend on that sample alone, whatever it is scored with.
    """

    Config: ClassVar[type]
    needs_proxy_labels: ClassVar[bool] = False  # the oracle alone: an upper bound, never a method
    has_unit_scores: ClassVar[bool] = True  # scores lie in 0..1; else histograms show 1 / (1 + e^-margin)

    @abstractmethod
    def fit(self, private: Samples) -> Filter:
        """Learn from private samples (labels may be used); returns self."""

    @abstractmethod
    def calibrate(self, holdout: Samples) -> Filter:
        """Set the threshold on private samples that `fit` did not see; returns self."""

    @abstractmethod
    def score(self, proxy: Samples) -> Array:
        """Scores (p,), higher = more in-distribution: 0..1 or a density ratio. They may underflow to ties."""

    @abstractmethod
    def margin(self, proxy: Samples) -> Array:
        """Margins (p,), float64: 0 at the threshold, >= 0 accepted, growing with the score.

        Finite also where scores underflow, and in units that do not depend on the client: so margins of different
        clients can be compared, and the client with the largest is the one whose data are closest to the sample.
        """

    @property
    @abstractmethod
    def threshold(self) -> float:
        """The score where the margin is 0."""

    def accept(self, proxy: Samples) -> Mask:
        """Mask (p,) of the accepted samples: margin >= 0."""
        accepted: Mask = self.margin(proxy) >= 0.0
        return accepted

"""The filters as scikit-learn outlier detectors, for use outside a federation: in pipelines and comparisons."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self, final

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from fedkd.data.base import Samples
from fedkd.filters.base import Filter
from fedkd.filters.kmeans import KMeansConfig, KMeansFilter
from fedkd.filters.kulsif import KulsifConfig, KulsifFilter
from fedkd.filters.selection import split_holdout
from fedkd.filters.ulsif import UlsifConfig, UlsifFilter
from fedkd.types import Array


class _Detector(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """What the three have in common: a filter is fitted on most rows and calibrated on the others."""

    holdout: float
    random_state: Any

    @abstractmethod
    def _new_filter(self, seed: int) -> Filter:
        """An unfitted filter with this estimator's parameters."""

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's names
        """Fit on a share 1 - holdout of the rows and set the threshold on the others. Labels are not used."""
        rows = validate_data(self, X, dtype=(np.float64, np.float32), ensure_min_samples=2)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        fitted, held_out = split_holdout(len(rows), self.holdout, np.random.default_rng(seed))
        self.filter_ = self._new_filter(seed).fit(Samples(rows[fitted])).calibrate(Samples(rows[held_out]))
        self.offset_ = self.filter_.threshold
        return self

    def score_samples(self, X: Any) -> Array:  # noqa: N803
        """The filter's scores (n,), higher = more like the training data."""
        samples = self._samples(X)
        return self.filter_.score(samples)

    def decision_function(self, X: Any) -> Array:  # noqa: N803
        """Scores less `offset_` (n,): scikit-learn's convention. `filter_.margin` goes on where scores underflow."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> Array:  # noqa: N803
        """1 (n,) for rows that the filter accepts, -1 for others."""
        samples = self._samples(X)
        return np.where(self.filter_.accept(samples), 1, -1)

    def _samples(self, rows: Any) -> Samples:
        check_is_fitted(self)
        return Samples(validate_data(self, rows, dtype=(np.float64, np.float32), reset=False))


@final
class KMeansDensity(_Detector):
    """`KMeansFilter`: distance to the nearest of `n_clusters` centroids, as the score exp(-d^2 / (2 h^2))."""

    def __init__(
        self,
        n_clusters: int = 10,
        *,
        quantile: float = 0.75,
        holdout: float = 0.2,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.quantile = quantile
        self.holdout = holdout
        self.random_state = random_state

    def _new_filter(self, seed: int) -> Filter:
        config = KMeansConfig(k_per_class=self.n_clusters, fit="joint", quantile=self.quantile)
        return KMeansFilter(config, seed=seed)


@final
class KuLSIF(_Detector):
    """`KulsifFilter`: the density of the training data over a uniform one, by kernel least squares."""

    def __init__(
        self,
        *,
        sigma: float = 5.0,
        known_share: float = 0.05,
        known_at_least: int = 50,
        auxiliary: int = 250,
        regularisation: float = 0.0,
        quantile: float = 0.75,
        compat: bool = False,
        holdout: float = 0.2,
        random_state: Any = None,
    ) -> None:
        self.sigma = sigma
        self.known_share = known_share
        self.known_at_least = known_at_least
        self.auxiliary = auxiliary
        self.regularisation = regularisation
        self.quantile = quantile
        self.compat = compat
        self.holdout = holdout
        self.random_state = random_state

    def _new_filter(self, seed: int) -> Filter:
        config = KulsifConfig(
            sigma=self.sigma,
            known_share=self.known_share,
            known_at_least=self.known_at_least,
            known_draw="random",
            auxiliary=self.auxiliary,
            regularisation=self.regularisation,
            quantile=self.quantile,
            compat=self.compat,
        )
        return KulsifFilter(config, seed=seed)


@final
class ULSIF(_Detector):
    """`UlsifFilter`: the same ratio on few kernel centres, chosen by leave-one-out where no width is given."""

    def __init__(
        self,
        *,
        centers: int = 100,
        auxiliary: int = 250,
        alpha: float = 0.0,
        sigma: float = 0.0,
        regularisation: float = 0.0,
        quantile: float = 0.75,
        holdout: float = 0.2,
        random_state: Any = None,
    ) -> None:
        self.centers = centers
        self.auxiliary = auxiliary
        self.alpha = alpha
        self.sigma = sigma
        self.regularisation = regularisation
        self.quantile = quantile
        self.holdout = holdout
        self.random_state = random_state

    def _new_filter(self, seed: int) -> Filter:
        config = UlsifConfig(
            centers=self.centers,
            auxiliary=self.auxiliary,
            alpha=self.alpha,
            sigma=self.sigma,
            regularisation=self.regularisation,
            quantile=self.quantile,
        )
        return UlsifFilter(config, seed=seed)

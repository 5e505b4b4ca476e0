"""KMeans-DRE, the filter of EdgeFD: a sample is accepted where it lies close to a centroid of the client's own data."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from fedkd.checks import check_choice, check_range
from fedkd.data.base import Samples
from fedkd.errors import DataError
from fedkd.filters.base import Filter
from fedkd.functional.kmeans_density import density_surrogate, nearest_distance
from fedkd.streams import stream_seed
from fedkd.types import Array, Mask


@dataclass(frozen=True, kw_only=True)
class KMeansConfig:
    """How the centroids are found and what distance is still close."""

    k_per_class: int = 10  # centroids per class that the client holds; at least 1
    fit: str = "per_class"  # per_class: each class by itself where there are labels; joint: all samples together
    quantile: float = 0.75  # q: the share of own data that is to be accepted; 0..1
    threshold_on: str = "holdout"  # distances whose quantile is T_c; train: of the fitted data, biased low for large k
    max_iter: int = 300  # Lloyd steps at most
    tol: float = 1e-4  # Lloyd stops once the centroids move less, relative to the variance of the features

    def __post_init__(self) -> None:
        check_range("k_per_class", self.k_per_class, low=1)
        check_choice("fit", self.fit, ("per_class", "joint"))
        check_range("quantile", self.quantile, above=0.0, high=1.0)
        check_choice("threshold_on", self.threshold_on, ("holdout", "train"))
        check_range("max_iter", self.max_iter, low=1)
        check_range("tol", self.tol, low=0.0)


@final
class KMeansFilter(Filter):
    """Accepts x where d(x) <= T_c; d is the Euclidean distance of the flattened input to the nearest centroid.

    T_c is the smallest distance within which a share q of the calibration data lies. Scores are exp(-d^2 / (2 h^2))
    with h^2 the mean of d^2 on the hold-out: a monotone stand-in for the density ratio. Samples are accepted by
    distance, because scores of far samples all end at 0.

    Where every hold-out sample lies on a centroid, h and T_c are 0: copies of centroids score 1 and are accepted,
    everything else scores 0 and is not.

    Paper: EdgeFD (arXiv 2508.14769). Deviation: clusters per class and the threshold rule are ours; its text was not
    available.
    """

    Config: ClassVar[type] = KMeansConfig

    def __init__(self, config: KMeansConfig, *, seed: int) -> None:
        self._config = config
        self._seed = seed
        self._centers: Array | None = None
        self._train_distance = np.zeros(0)
        self._reach = math.nan  # T_c
        self._bandwidth = math.nan  # h_c

    def fit(self, private: Samples) -> KMeansFilter:
        """Find the centroids: `k_per_class` of each class, or that many times the number of classes jointly.

        Without a label per sample all samples count as one class. Fewer distinct samples than centroids give fewer
        centroids.
        """
        if not len(private):
            raise DataError("the kmeans filter got no private sample to fit on; use more data or fewer clients")
        x = _flat(private)
        labels = private.y if private.y is not None and private.y.ndim == 1 else np.zeros(len(x), np.int64)
        classes = np.unique(labels)
        if self._config.fit == "per_class":
            k = self._config.k_per_class
            parts = [self._cluster(x[labels == label], k, f"kmeans/{label}") for label in classes]
        else:
            parts = [self._cluster(x, self._config.k_per_class * len(classes), "kmeans")]
        self._centers = np.concatenate(parts)
        if self._config.threshold_on == "train":
            self._train_distance = self._distance(private)
        return self

    def calibrate(self, holdout: Samples) -> KMeansFilter:
        """Set T_c and the bandwidth."""
        if not len(holdout):
            raise DataError("the kmeans filter got no hold-out sample; raise filter.holdout or use more data")
        distance = self._distance(holdout)
        self._bandwidth = float(np.sqrt((distance**2).mean()))
        known = distance if self._config.threshold_on == "holdout" else self._train_distance
        # A distance that occurs, not one between two: the share q is met, and no rounding moves a sample across it.
        self._reach = float(np.quantile(known, self._config.quantile, method="inverted_cdf"))
        return self

    def score(self, proxy: Samples) -> Array:
        """exp(-d^2 / (2 h^2)), 0..1."""
        return density_surrogate(self._distance(proxy), self._bandwidth)

    @property
    def threshold(self) -> float:
        """The score at distance T_c."""
        return float(density_surrogate(np.array([self._reach]), self._bandwidth)[0])

    def accept(self, proxy: Samples) -> Mask:
        """Mask (p,) of the samples with d <= T_c."""
        accepted: Mask = self._distance(proxy) <= self._reach
        return accepted

    def _cluster(self, x: Array, k: int, name: str) -> Array:
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning
        from threadpoolctl import threadpool_limits

        model = KMeans(
            min(k, len(x)),
            init="k-means++",
            n_init=1,
            algorithm="lloyd",
            max_iter=self._config.max_iter,
            tol=self._config.tol,
            random_state=stream_seed(self._seed, name) % 2**32,
        )
        # One thread: with several, the order of summation and so the centroids would change from run to run.
        with threadpool_limits(1), warnings.catch_warnings():
            # It says that some centroids got no sample, since samples are equal. Those centroids are dropped here.
            warnings.filterwarnings("ignore", category=ConvergenceWarning)
            model.fit(x)
        centers: Array = model.cluster_centers_[np.unique(model.labels_)]
        return centers

    def _distance(self, samples: Samples) -> Array:
        if self._centers is None:
            raise RuntimeError("the kmeans filter is used before `fit`")
        x = _flat(samples)
        if x.shape[1] != self._centers.shape[1]:
            raise DataError(
                f"the samples have {x.shape[1]} features, but the kmeans filter was fitted on "
                f"{self._centers.shape[1]}; the proxy set must have the same input shape as the private data"
            )
        return nearest_distance(x, self._centers)


def _flat(samples: Samples) -> Array:
    return samples.x.reshape(len(samples), math.prod(samples.x.shape[1:]))

"""KMeans-DRE, the filter of EdgeFD: a sample is accepted where it lies close to a centroid of the client's own data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from fedkd.checks import check_choice, check_range
from fedkd.data.base import Samples
from fedkd.filters.base import Filter
from fedkd.filters.clustering import lloyd_centers, minibatch_centers
from fedkd.filters.inputs import flat, flat_like, require
from fedkd.functional.kmeans_density import density_surrogate, distance_margin, nearest_distance
from fedkd.streams import stream, stream_seed
from fedkd.types import Array

MIN_MEMBERS = 5  # per_centroid: centroids with fewer known samples share one quantile


@dataclass(frozen=True, kw_only=True)
class KMeansConfig:
    """How the centroids are found and what distance is still close."""

    k_per_class: int = 10  # centroids per class that the client holds; at least 1
    fit: str = "per_class"  # per_class: each class by itself where there are labels; joint: all samples together
    threshold_rule: str = "quantile"  # T_c: quantile of known distances; mean_sd; per_centroid quantiles; constant
    quantile: float = 0.75  # q: the share of own data that is to be accepted; 0..1
    threshold_sd: float = 1.0  # a of the rule mean_sd: T_c = mean + a * standard deviation
    threshold_constant: float = 1.0  # T_c of the rule constant, in the unit of the features; > 0
    threshold_on: str = "holdout"  # known distances: of the hold-out; train: of the fitted data, biased low for large k
    max_iter: int = 300  # Lloyd steps, or passes of mini-batches, at most
    tol: float = 1e-4  # Lloyd stops once the centroids move less, relative to the variance of the features
    algorithm: str = (
        "auto"  # auto: lloyd or minibatch by size; lloyd, minibatch: scikit-learn; torch: Lloyd on `device`
    )
    minibatch_above: int = 20_000  # auto takes mini-batches where one clustering has more samples
    device: str = "cuda"  # of algorithm torch: cuda or cpu

    def __post_init__(self) -> None:
        check_range("k_per_class", self.k_per_class, low=1)
        check_choice("fit", self.fit, ("per_class", "joint"))
        check_choice("threshold_rule", self.threshold_rule, ("quantile", "mean_sd", "per_centroid", "constant"))
        check_range("quantile", self.quantile, above=0.0, high=1.0)
        check_range("threshold_sd", self.threshold_sd, above=-math.inf, below=math.inf)
        check_range("threshold_constant", self.threshold_constant, above=0.0, below=math.inf)
        check_choice("threshold_on", self.threshold_on, ("holdout", "train"))
        check_range("max_iter", self.max_iter, low=1)
        check_range("tol", self.tol, low=0.0)
        check_choice("algorithm", self.algorithm, ("auto", "lloyd", "minibatch", "torch"))
        check_range("minibatch_above", self.minibatch_above, low=1)
        check_choice("device", self.device, ("cuda", "cpu"))


@final
class KMeansFilter(Filter):
    """Accepts x where d(x) <= T_c; d is the Euclidean distance of the flattened input to the nearest centroid.

    T_c by `threshold_rule`: quantile, the smallest distance within which a share q of the known distances lies;
    mean_sd, their mean + a * standard deviation; constant; per_centroid, a T_j for each centroid from the quantile of
    the known samples closest to it, x being accepted where d_j(x) <= T_j for some j. A centroid with fewer than
    MIN_MEMBERS of them shares one T with the others like it; where that or T_j is 0, the T_c of all stands in. There
    d(x) stands for min_j d_j(x) / T_j, and T_c for 1.

    The margin is 1 - d / T_c, from 1 on a centroid down to -1e6. With the rule constant all clients have one T_c, so
    that the largest margin is the smallest distance: for filter.rule nearest that is the better order (tests/filters/
    test_real_data.py: on MNIST, one class each, k = 10, that client owns the class of 90 % of the samples, by the
    margins of the rule quantile at q = 0.75 of 83 %).

    Scores are exp(-d^2 / (2 h^2)) with h^2 the mean of d^2 on the hold-out: a monotone stand-in for the density ratio.

    Where every known sample lies on a centroid, h and T_c are 0: copies of centroids score 1 and are accepted,
    everything else scores 0 and is not.

    Paper: EdgeFD (arXiv 2508.14769). Deviation: clusters per class and the threshold rule are ours; its text was not
    available.
    """

    Config: ClassVar[type] = KMeansConfig

    def __init__(self, config: KMeansConfig, *, seed: int) -> None:
        self._config = config
        self._seed = seed
        self._centers: Array | None = None
        self._scale: Array | None = None  # T_j (k,) of the rule per_centroid
        self._train = np.zeros((0, 0))  # the fitted rows, where the threshold is set on them
        self._reach = math.nan  # T_c
        self._bandwidth = math.nan  # h_c

    def fit(self, private: Samples) -> KMeansFilter:
        """Find the centroids: `k_per_class` of each class, or that many times the number of classes jointly.

        Without a label per sample all samples count as one class. Fewer distinct samples than centroids give fewer
        centroids.
        """
        require(private, filter="kmeans", role="private")
        x = flat(private)
        labels = private.strata
        classes = np.unique(labels)
        if self._config.fit == "per_class":
            k = self._config.k_per_class
            parts = [self._cluster(x[labels == label], k, f"kmeans/{label}", overwrite=True) for label in classes]
        else:
            parts = [self._cluster(x, self._config.k_per_class * len(classes), "kmeans")]
        self._centers, self._scale = np.concatenate(parts), None
        if self._config.threshold_on == "train":
            self._train = x
        return self

    def calibrate(self, holdout: Samples) -> KMeansFilter:
        """Set T_c and the bandwidth."""
        require(holdout, filter="kmeans", role="hold-out")
        config, centers, self._scale = self._config, self._fitted(), None
        x = flat_like(holdout, centers.shape[1], filter="kmeans")
        known = x if config.threshold_on == "holdout" else self._train
        distance = nearest_distance(known, centers)
        if config.threshold_rule == "constant":
            self._reach = config.threshold_constant
        elif config.threshold_rule == "mean_sd":
            self._reach = max(float(distance.mean() + config.threshold_sd * distance.std()), 0.0)
        else:
            self._reach = _quantile(distance, config.quantile)
        if config.threshold_rule == "per_centroid" and self._reach > 0.0:
            self._scale, self._reach = self._radii(known), 1.0
        self._bandwidth = float(np.sqrt((self._distance(holdout) ** 2).mean()))
        return self

    def score(self, proxy: Samples) -> Array:
        """exp(-d^2 / (2 h^2)), 0..1."""
        return density_surrogate(self._distance(proxy), self._bandwidth)

    def margin(self, proxy: Samples) -> Array:
        """1 - d / T_c: 1 on a centroid, at least -1e6."""
        return distance_margin(self._distance(proxy), self._reach)

    @property
    def threshold(self) -> float:
        """The score at distance T_c."""
        return float(density_surrogate(np.array([self._reach]), self._bandwidth)[0])

    @property
    def kept_bytes(self) -> int:
        """What a device has to keep: the centroids, T_c (or every T_j) and the bandwidth."""
        radii = 8 if self._scale is None else self._scale.nbytes
        return self._fitted().nbytes + radii + 8

    def _cluster(self, x: Array, k: int, name: str, *, overwrite: bool = False) -> Array:
        config = self._config
        seed = stream_seed(self._seed, name) % 2**32
        if config.algorithm == "torch":
            from fedkd.filters.kmeans_torch import torch_centers

            rng = stream(self._seed, name)
            return torch_centers(x, k, rng=rng, max_iter=config.max_iter, tol=config.tol, device=config.device)
        if config.algorithm == "minibatch" or (config.algorithm == "auto" and len(x) > config.minibatch_above):
            return minibatch_centers(x, k, seed=seed, max_iter=config.max_iter)
        return lloyd_centers(x, k, seed=seed, max_iter=config.max_iter, tol=config.tol, overwrite=overwrite)

    def _radii(self, known: Array) -> Array:
        """T_j (k,): the quantile of the distances of centroid j's own members among the known rows."""
        centers = self._fitted()
        each = np.stack([nearest_distance(known, center[None]) for center in centers])
        owner = each.argmin(axis=0)
        is_sparse = np.bincount(owner, minlength=len(centers)) < MIN_MEMBERS
        # Not the T_c of all: its share q may lie with the other centroids alone, and then fewer than q are accepted.
        among_sparse = each.min(axis=0)[is_sparse[owner]]
        shared = _quantile(among_sparse, self._config.quantile) if len(among_sparse) else 0.0
        radii = np.full(len(centers), shared or self._reach)
        for j in np.flatnonzero(~is_sparse):
            radii[j] = _quantile(each[j, owner == j], self._config.quantile) or self._reach
        return radii

    def _fitted(self) -> Array:
        if self._centers is None:
            raise RuntimeError("the kmeans filter is used before `fit`")
        return self._centers

    def _distance(self, samples: Samples) -> Array:
        centers = self._fitted()
        return nearest_distance(flat_like(samples, centers.shape[1], filter="kmeans"), centers, scale=self._scale)


def _quantile(distance: Array, q: float) -> float:
    """A distance that occurs, not one between two: the share q is met, and no rounding moves a sample across it."""
    return float(np.quantile(distance, q, method="inverted_cdf"))

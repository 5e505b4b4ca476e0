"""The filters that are timed against each other, at the sizes of the comparison, on drawn data."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedkd.data.base import Samples
from fedkd.filters.kmeans import KMeansConfig, KMeansFilter
from fedkd.filters.kulsif import KulsifConfig, KulsifFilter
from fedkd.filters.ulsif import UlsifConfig, UlsifFilter
from fedkd.types import Array

CENTROIDS = (1, 10, 50)
WIDTHS = (64, 512, 784, 3072)
ROWS = 6000  # proxy samples that are scored
PRIVATE = 1000  # samples that a filter is fitted on; KuLSIF makes 270 of them kernel centres
HOLDOUT = 500
KNOWN, AUXILIARY, SIGMA = 270, 250, 5.0
BROADCAST_ROWS = 600  # rows that the published code scores at a time
_SOURCES = 20  # Gaussian bumps that the data are drawn from


@dataclass(frozen=True)
class Case:
    """One row of the table.

    `name`: kmeans, kulsif and ulsif are the product's filters. Two more forms of KuLSIF's score are for comparison
    alone: kulsif_float32, the matmul form in single precision, and kulsif_broadcast, the (rows, points, d) differences
    of the code published with Selective-FD.
    """

    name: str
    d: int
    k: int = 0  # centroids of kmeans

    @property
    def is_filter(self) -> bool:
        """Whether this is a filter of the product, which can be fitted."""
        return self.name in {"kmeans", "kulsif", "ulsif"}


def all_cases(widths: tuple[int, ...] = WIDTHS) -> list[Case]:
    """Every case, by width."""
    forms = ("kulsif", "kulsif_float32", "kulsif_broadcast", "ulsif")
    return [
        case
        for d in widths
        for case in (*(Case("kmeans", d, k) for k in CENTROIDS), *(Case(name, d) for name in forms))
    ]


def draw(rows: int, d: int, *, seed: int) -> Samples:
    """Samples (rows, d) float32 of one class, spread like normalised images."""
    rng = np.random.default_rng([seed, d])
    centers = 0.8 * np.random.default_rng(d).standard_normal((_SOURCES, d), dtype=np.float32)
    x = rng.standard_normal((rows, d), dtype=np.float32)
    x *= 0.5
    source = rng.integers(_SOURCES, size=rows)
    for j in range(_SOURCES):  # in place: what is drawn here must not be the peak of a process that filters
        for row in np.flatnonzero(source == j):
            x[row] += centers[j]
    return Samples(x)


def new_filter(case: Case) -> Any:
    """The unfitted filter of a case."""
    if case.name == "kmeans":
        return KMeansFilter(KMeansConfig(k_per_class=case.k), seed=0)
    if case.name == "ulsif":
        return UlsifFilter(UlsifConfig(auxiliary=AUXILIARY), seed=0)
    assert case.name == "kulsif", case.name
    return KulsifFilter(KulsifConfig(known_share=KNOWN / PRIVATE, auxiliary=AUXILIARY, sigma=SIGMA), seed=0)


def own_data(d: int) -> tuple[Samples, Samples]:
    """What a client fits and calibrates its filter on."""
    return draw(PRIVATE, d, seed=1), draw(HOLDOUT, d, seed=2)


def scorer(case: Case, fitted: Any) -> Callable[[Samples], Array]:
    """What is timed: scores of samples."""
    if case.is_filter:
        score: Callable[[Samples], Array] = fitted.score
        return score
    points, weights = draw(AUXILIARY + KNOWN, case.d, seed=3).x, np.linspace(-1.0, 1.0, AUXILIARY + KNOWN)
    form = float32_sum if case.name == "kulsif_float32" else broadcast_sum
    return lambda samples: form(samples.x, points, weights.astype(np.float32))


def float32_sum(x: Array, points: Array, weights: Array) -> Array:
    """sum_j w_j k(x, c_j) (p,) by the matmul form in float32."""
    factor = np.ascontiguousarray(points.T) * np.float32(2.0)
    squares = (points * points).sum(axis=1)
    sums = np.empty(len(x), np.float32)
    for start in range(0, len(x), 256):
        rows = x[start : start + 256]
        kernel = rows @ factor
        kernel -= squares
        kernel -= (rows * rows).sum(axis=1)[:, None]
        kernel *= np.float32(0.5 / SIGMA**2)
        sums[start : start + 256] = np.exp(kernel, out=kernel) @ weights
    return sums


def broadcast_sum(x: Array, points: Array, weights: Array) -> Array:
    """The same from a (rows, points, d) array of differences, one for the auxiliary and one for the known samples."""
    sums = np.zeros(len(x), np.float32)
    for part in (slice(0, AUXILIARY), slice(AUXILIARY, None)):
        squares = ((x[:, None] - points[None, part]) ** 2).sum(axis=2)
        sums += np.exp(-squares / np.float32(2.0 * SIGMA**2)) @ weights[part]
    return sums


def broadcast_bytes(case: Case) -> int:
    """What the differences and their squares take at once."""
    return 2 * 4 * BROADCAST_ROWS * KNOWN * case.d


def free_bytes() -> int:
    """Memory that is free on this machine; 0 where it cannot be told."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0

"""uLSIF and RuLSIF: the density ratio on few kernel centres, with width and regularisation chosen by leave-one-out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from fedkd.checks import check_range
from fedkd.data.base import Samples
from fedkd.filters.base import Filter
from fedkd.filters.density_ratio import Ratio, uniform_in_box
from fedkd.filters.inputs import flat, require
from fedkd.functional.ulsif import REGULARISATIONS, WIDTHS, choose_ulsif, median_distance, ulsif_weights
from fedkd.streams import stream
from fedkd.types import Array


@dataclass(frozen=True, kw_only=True)
class UlsifConfig:
    """What is fixed of the ratio; width and regularisation are chosen where they are 0."""

    centers: int = 100  # kernel centres, drawn from the known samples; at least 1
    known_at_most: int = 1000  # private samples that the fit uses, drawn at random
    auxiliary: int = 250  # n: uniform draws in the input box; at least 2
    alpha: float = 0.0  # 0: uLSIF, p / q; up to below 1: RuLSIF, p / (alpha p + (1 - alpha) q), at most 1 / alpha
    sigma: float = 0.0  # width of the kernel; 0: a multiple of the median distance, by leave-one-out
    regularisation: float = 0.0  # lambda; 0: by leave-one-out
    quantile: float = 0.75  # q: the share of own data that is to be accepted; 0..1

    def __post_init__(self) -> None:
        check_range("centers", self.centers, low=1)
        check_range("known_at_most", self.known_at_most, low=2)
        check_range("auxiliary", self.auxiliary, low=2)
        check_range("alpha", self.alpha, low=0.0, below=1.0)
        check_range("sigma", self.sigma, low=0.0)
        check_range("regularisation", self.regularisation, low=0.0)
        check_range("quantile", self.quantile, above=0.0, high=1.0)


@final
class UlsifFilter(Filter):
    """Accepts x where r(x) >= T_c; r = p_c / q by unconstrained least squares, q uniform on the input box.

    T_c is the largest ratio that a share q of the remaining private samples reaches: those that the fit did not use,
    and the hold-out. The margin is log(r / T_c). A single private sample leaves nothing out: the width is then 1 (or
    `sigma`) and the regularisation the middle one of the grid.

    Paper: Kanamori, Hido, Sugiyama 2009; Yamada et al. 2011 (RuLSIF). Deviation: the grid of widths is relative to the
    median distance; RuLSIF is chosen by leave-one-out too, not by folds.
    """

    Config: ClassVar[type] = UlsifConfig
    has_unit_scores: ClassVar[bool] = False

    def __init__(self, config: UlsifConfig, *, seed: int) -> None:
        self._config = config
        self._seed = seed
        self._ratio: Ratio | None = None
        self._remaining: Array = np.zeros(0)  # levels of the private samples that the fit did not use

    def fit(self, private: Samples) -> UlsifFilter:
        """Choose width and regularisation, and estimate the ratio."""
        require(private, filter="ulsif", role="private")
        config, x = self._config, flat(private)
        order = stream(self._seed, "ulsif/known").permutation(len(x))
        known, rest = x[order[: config.known_at_most]], np.sort(order[config.known_at_most :])
        centers = known[: config.centers]
        auxiliary = uniform_in_box(x, config.auxiliary, stream(self._seed, "ulsif/auxiliary"))
        sigma, regularisation = self._choose(auxiliary, known, centers)
        weights = ulsif_weights(
            auxiliary, known, centers, sigma=sigma, regularisation=regularisation, alpha=config.alpha
        )
        used = np.flatnonzero(weights)  # never none: h >= 0 is not 0, so theta is positive somewhere
        self._ratio = Ratio(centers[used], weights[used], sigma=sigma, name="ulsif")
        self._remaining = self._ratio.levels(private.take(rest))
        return self

    def calibrate(self, holdout: Samples) -> UlsifFilter:
        """Set T_c."""
        require(holdout, filter="ulsif", role="hold-out")
        ratio = self._fitted()
        ratio.accept_share(np.concatenate([self._remaining, ratio.levels(holdout)]), self._config.quantile)
        return self

    def score(self, proxy: Samples) -> Array:
        """r(x) >= 0."""
        return self._fitted().score(proxy)

    def margin(self, proxy: Samples) -> Array:
        """log(r / T_c)."""
        return self._fitted().margin(proxy)

    @property
    def threshold(self) -> float:
        """T_c."""
        return self._fitted().threshold

    @property
    def kept_bytes(self) -> int:
        """What a device has to keep: the centres with a weight, their weights, two numbers."""
        return self._fitted().kept_bytes

    def _choose(self, auxiliary: Array, known: Array, centers: Array) -> tuple[float, float]:
        config = self._config
        regularisations = (config.regularisation,) if config.regularisation else REGULARISATIONS
        if len(known) < 2:
            return config.sigma or 1.0, regularisations[len(regularisations) // 2]
        sigmas = [config.sigma]
        if not config.sigma:
            median = median_distance(known, centers)
            sigmas = [width * median for width in WIDTHS]
        chosen = choose_ulsif(
            auxiliary, known, centers, sigmas=sigmas, regularisations=regularisations, alpha=config.alpha
        )
        return chosen.sigma, chosen.regularisation

    def _fitted(self) -> Ratio:
        if self._ratio is None:
            raise RuntimeError("the ulsif filter is used before `fit`")
        return self._ratio

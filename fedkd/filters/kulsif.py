"""KuLSIF, the filter of Selective-FD: a sample is accepted where the client's density is high against a uniform one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from fedkd.checks import check_choice, check_range
from fedkd.data.base import Samples
from fedkd.filters.base import Filter
from fedkd.filters.density_ratio import Ratio, uniform_in_box
from fedkd.filters.inputs import flat, require
from fedkd.functional.kulsif import kulsif_weights
from fedkd.streams import stream
from fedkd.types import Array


@dataclass(frozen=True, kw_only=True)
class KulsifConfig:
    """Defaults are the official ones for MNIST, normalised pixels and some 5,400 private samples per client."""

    sigma: float = 5.0  # width of the kernel, in the unit of the features; > 0
    known_share: float = 0.05  # of the private samples becomes kernel centres; 0..1
    known_at_least: int = 50  # but so many where the client has them: 5 % of little data would estimate nothing
    known_at_most: int = 1000  # and never more, since they are kept
    known_draw: str = "first"  # first: the first of the client's samples; random: for data that are sorted by class
    auxiliary: int = 250  # n: uniform draws in the input box; at least 1
    regularisation: float = 0.0  # lambda; 0: n^-0.5
    quantile: float = 0.75  # q: the share of own data that is to be accepted; 0..1 (the official quartile is 1 - q)
    compat: bool = False  # compute what the published code computes; see fedkd.functional.kulsif

    def __post_init__(self) -> None:
        check_range("sigma", self.sigma, above=0.0)
        check_range("known_share", self.known_share, low=0.0, high=1.0)
        check_range("known_at_least", self.known_at_least, low=1)
        check_range("known_at_most", self.known_at_most, low=1)
        check_choice("known_draw", self.known_draw, ("first", "random"))
        check_range("auxiliary", self.auxiliary, low=1)
        check_range("regularisation", self.regularisation, low=0.0)
        check_range("quantile", self.quantile, above=0.0, high=1.0)


@final
class KulsifFilter(Filter):
    """Accepts x where r(x) >= T_c; r = p_c / q estimates the client's density over the uniform one on the input box.

    T_c is the largest ratio that a share q of the remaining private samples reaches: those of `fit` that did not become
    kernel centres, and the hold-out. The margin is log(r / T_c), which goes on where r itself underflows.

    Paper: Selective-FD (Shao, Wu, Zhang 2024). Deviation: the linear system is solved, where the published code
    multiplies by the matrix (`compat`); the threshold is a ratio that occurs, not one between two; at least 50 samples
    are known. The input box spans the client's own values: on normalised MNIST that is the official one.
    """

    Config: ClassVar[type] = KulsifConfig
    has_unit_scores: ClassVar[bool] = False

    def __init__(self, config: KulsifConfig, *, seed: int) -> None:
        self._config = config
        self._seed = seed
        self._ratio: Ratio | None = None
        self._remaining: Array = np.zeros(0)  # levels of the private samples that are no kernel centre

    def fit(self, private: Samples) -> KulsifFilter:
        """Estimate the ratio."""
        require(private, filter="kulsif", role="private")
        config, x = self._config, flat(private)
        count = min(max(round(config.known_share * len(x)), config.known_at_least), config.known_at_most)
        count = min(count, max(len(x) - 1, 1))
        order = np.arange(len(x))
        if config.known_draw == "random":
            order = stream(self._seed, "kulsif/known").permutation(len(x))
        known, rest = np.sort(order[:count]), np.sort(order[count:])
        auxiliary = uniform_in_box(x, config.auxiliary, stream(self._seed, "kulsif/auxiliary"))
        weights = kulsif_weights(
            auxiliary,
            x[known],
            sigma=config.sigma,
            regularisation=config.regularisation or config.auxiliary**-0.5,
            compat=config.compat,
        )
        self._ratio = Ratio(np.concatenate([auxiliary, x[known]]), weights, sigma=config.sigma, name="kulsif")
        self._remaining = self._ratio.levels(private.take(rest))
        return self

    def calibrate(self, holdout: Samples) -> KulsifFilter:
        """Set T_c."""
        require(holdout, filter="kulsif", role="hold-out")
        ratio = self._fitted()
        ratio.accept_share(np.concatenate([self._remaining, ratio.levels(holdout)]), self._config.quantile)
        return self

    def score(self, proxy: Samples) -> Array:
        """r(x); any number, mostly above 0."""
        return self._fitted().score(proxy)

    def margin(self, proxy: Samples) -> Array:
        """log(r / T_c); some -1e6 where r is not positive."""
        return self._fitted().margin(proxy)

    @property
    def threshold(self) -> float:
        """T_c."""
        return self._fitted().threshold

    @property
    def kept_bytes(self) -> int:
        """What a device has to keep: auxiliary and known samples, their weights, two numbers."""
        return self._fitted().kept_bytes

    def _fitted(self) -> Ratio:
        if self._ratio is None:
            raise RuntimeError("the kulsif filter is used before `fit`")
        return self._ratio

import numpy as np
import pytest

from fedkd.data.base import Samples
from fedkd.errors import ConfigError, DataError
from fedkd.filters.ulsif import UlsifConfig, UlsifFilter


def blob(seed: int, size: int, *, center: float = 0.0, width: int = 4) -> Samples:
    rng = np.random.default_rng(seed)
    return Samples((center + rng.normal(size=(size, width))).astype(np.float32))


def fitted(private: Samples, holdout: Samples, **options: float) -> UlsifFilter:
    return UlsifFilter(UlsifConfig(**options), seed=0).fit(private).calibrate(holdout)  # type: ignore[arg-type]


@pytest.mark.parametrize("alpha", [0.0, 0.1])
@pytest.mark.parametrize("quantile", [0.5, 0.75])
def test_own_samples_are_accepted_and_far_ones_are_not(alpha: float, quantile: float) -> None:
    ulsif = fitted(blob(0, 1000), blob(1, 1000), alpha=alpha, quantile=quantile)
    assert ulsif.accept(blob(2, 2000)).mean() == pytest.approx(quantile, abs=0.05)
    assert not ulsif.accept(blob(3, 100, center=30.0)).any()


def test_ratios_are_not_negative_and_bounded_where_relative() -> None:
    proxy = blob(2, 500)
    plain, relative = (fitted(blob(0, 1000), blob(1, 100), alpha=alpha).score(proxy) for alpha in (0.0, 0.5))
    assert (plain >= 0).all()
    assert (relative >= 0).all()
    assert relative.max() < 1.5 / 0.5 < plain.max()  # the true relative ratio is at most 1 / alpha


def test_margins_are_logs_of_the_ratio_over_the_threshold() -> None:
    ulsif, proxy = fitted(blob(0, 200), blob(1, 100)), blob(2, 100)
    np.testing.assert_allclose(ulsif.margin(proxy), np.log(ulsif.score(proxy) / ulsif.threshold), atol=1e-9)


def test_given_width_and_regularisation_are_used() -> None:
    chosen, given = (
        fitted(blob(0, 200), blob(1, 100), **options) for options in ({}, {"sigma": 0.3, "regularisation": 5.0})
    )
    assert (chosen.score(blob(2, 20)) != given.score(blob(2, 20))).any()


def test_what_is_kept_are_the_centres_with_a_weight() -> None:
    ulsif = fitted(blob(0, 1000), blob(1, 100), centers=40)
    assert 0 < ulsif.kept_bytes <= 40 * (4 * 4 + 8) + 16


@pytest.mark.parametrize("size", [1, 2, 3])
def test_few_samples_are_no_trouble(size: int) -> None:
    assert np.isfinite(fitted(blob(0, size), blob(1, 2)).margin(blob(2, 5))).all()
    constant = fitted(Samples(np.ones((size, 3))), Samples(np.ones((2, 3))))
    assert constant.accept(Samples(np.ones((1, 3)))).all()


def test_same_seed_same_scores() -> None:
    proxy = blob(2, 20)
    scores = fitted(blob(0, 100), blob(1, 50)).score(proxy)
    np.testing.assert_array_equal(fitted(blob(0, 100), blob(1, 50)).score(proxy), scores)


def test_misuse_is_told() -> None:
    ulsif = UlsifFilter(UlsifConfig(), seed=0)
    with pytest.raises(RuntimeError, match="before `fit`"):
        ulsif.accept(blob(0, 2))
    with pytest.raises(DataError, match="ulsif filter got no private sample"):
        ulsif.fit(blob(0, 0))
    with pytest.raises(DataError, match="ulsif filter got no hold-out sample"):
        ulsif.fit(blob(0, 5)).calibrate(blob(0, 0))
    with pytest.raises(DataError, match="3 features, but the ulsif filter was fitted on 4"):
        ulsif.margin(blob(0, 2, width=3))


@pytest.mark.parametrize(
    "options",
    [
        {"centers": 0},
        {"known_at_most": 1},
        {"auxiliary": 1},
        {"alpha": 1.0},
        {"sigma": -1.0},
        {"regularisation": -0.1},
        {"quantile": 1.5},
    ],
)
def test_bad_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        UlsifConfig(**options)  # type: ignore[arg-type]

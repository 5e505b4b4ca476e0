import numpy as np
import pytest

from fedkd.data.base import Samples
from fedkd.errors import ConfigError, DataError
from fedkd.filters.density_ratio import uniform_in_box
from fedkd.filters.kulsif import KulsifConfig, KulsifFilter
from fedkd.functional.kernel_density import LOG_FLOOR
from fedkd.types import Array


def blob(seed: int, size: int, *, center: float = 0.0, width: int = 4) -> Samples:
    rng = np.random.default_rng(seed)
    return Samples((center + rng.normal(size=(size, width))).astype(np.float32))


def fitted(private: Samples, holdout: Samples, **options: float | str | bool) -> KulsifFilter:
    config = KulsifConfig(**{"sigma": 1.0, **options})  # type: ignore[arg-type]
    return KulsifFilter(config, seed=0).fit(private).calibrate(holdout)


def test_defaults_are_the_official_ones() -> None:
    config = KulsifConfig()
    assert (config.sigma, config.known_share, config.known_draw) == (5.0, 0.05, "first")
    assert (config.auxiliary, config.regularisation, config.quantile) == (250, 0.0, 0.75)  # lambda 0: n^-0.5
    kulsif = fitted(blob(0, 5400), blob(1, 100))
    assert kulsif.kept_bytes == (250 + 270) * 4 * 4 + (250 + 270) * 8 + 16


def test_own_samples_are_accepted_and_far_ones_are_not() -> None:
    kulsif = fitted(blob(0, 1000), blob(1, 1000))
    assert kulsif.accept(blob(2, 2000)).mean() == pytest.approx(0.75, abs=0.03)
    assert not kulsif.accept(blob(3, 100, center=20.0)).any()
    assert fitted(blob(0, 1000), blob(1, 1000), quantile=0.5).accept(blob(2, 2000)).mean() == pytest.approx(
        0.5, abs=0.05
    )


def test_the_threshold_comes_from_all_private_samples_that_are_not_known() -> None:
    private, holdout = blob(0, 100), blob(1, 20)
    kulsif = fitted(private, holdout, known_at_least=30)
    remaining = Samples(np.concatenate([private.x[30:], holdout.x]))
    scores = np.sort(kulsif.score(remaining))
    assert kulsif.threshold == scores[90 - int(np.ceil(0.75 * 90))]
    assert (kulsif.margin(remaining) >= 0).sum() == 68  # 0.75 * 90 = 67.5


def test_margins_are_logs_of_the_ratio_over_the_threshold() -> None:
    kulsif = fitted(blob(0, 200), blob(1, 100))
    proxy = blob(2, 300)
    scores, margins = kulsif.score(proxy), kulsif.margin(proxy)
    positive = scores > 1e-200
    np.testing.assert_allclose(margins[positive], np.log(scores[positive] / kulsif.threshold), atol=1e-9)


def test_margins_go_on_where_ratios_underflow() -> None:
    x = np.linspace(1, 0, 100)[:, None]  # the first is known, and no auxiliary sample lies beyond it
    kulsif, far = fitted(Samples(x), Samples(x)), Samples(np.array([[100.0], [101.0], [1e4]]))
    assert kulsif.score(far).tolist() == [0.0] * 3
    np.testing.assert_allclose(np.diff(kulsif.margin(far)[:2]), (99**2 - 100**2) / 2, rtol=1e-4)
    assert kulsif.margin(far)[2] == pytest.approx(LOG_FLOOR, abs=100)


def test_a_ratio_that_is_not_positive_has_a_margin_too() -> None:
    """Beside an auxiliary sample far from all known ones the estimate is negative."""
    kulsif = fitted(
        Samples(np.array([[0.0], [0.1], [10.0]])), Samples(np.array([[0.05]])), known_at_most=2, sigma=0.2, quantile=0.5
    )
    grid = Samples(np.linspace(3.0, 9.0, 200)[:, None])
    scores, margins = kulsif.score(grid), kulsif.margin(grid)
    assert (scores < 0).any()
    assert (margins[scores <= 0] < LOG_FLOOR / 2).all()
    assert np.isfinite(margins).all()
    assert not kulsif.accept(grid).any()


def test_the_input_box_spans_all_values() -> None:
    draws = uniform_in_box(np.array([[0.0, 2.0], [5.0, 3.0]], np.float32), 4000, np.random.default_rng(0))
    assert draws.dtype == np.float32
    assert draws.shape == (4000, 2)
    assert 0.0 <= draws.min() < 0.1
    assert 4.9 < draws.max() <= 5.0
    assert abs(draws.mean() - 2.5) < 0.1


@pytest.mark.parametrize("size", [1, 2, 3])
def test_few_samples_are_no_trouble(size: int) -> None:
    kulsif = fitted(blob(0, size), blob(1, 2))
    assert np.isfinite(kulsif.score(blob(2, 5))).all()
    constant = fitted(Samples(np.ones((size, 3))), Samples(np.ones((2, 3))))
    assert constant.accept(Samples(np.ones((1, 3)))).all()


def test_known_samples_are_the_first_or_drawn() -> None:
    x = np.concatenate([np.zeros((100, 1)), np.full((100, 1), 50.0)])  # sorted by class
    holdout, proxy = Samples(x[::10]), Samples(np.array([[0.0], [50.0]]))
    first = fitted(Samples(x), holdout, quantile=1.0, known_at_least=50)
    drawn = fitted(Samples(x), holdout, quantile=1.0, known_at_least=50, known_draw="random")
    assert np.log(first.score(proxy)[0]) - np.log(max(first.score(proxy)[1], 1e-300)) > 5
    assert drawn.score(proxy)[0] == pytest.approx(drawn.score(proxy)[1], rel=1.0)


def test_compat_gives_other_ratios() -> None:
    ratios: list[Array] = [fitted(blob(0, 200), blob(1, 50), compat=each).score(blob(2, 50)) for each in (False, True)]
    assert (ratios[0] != ratios[1]).any()


def test_same_seed_same_scores() -> None:
    proxy = blob(2, 20)
    scores = fitted(blob(0, 100), blob(1, 50)).score(proxy)
    np.testing.assert_array_equal(fitted(blob(0, 100), blob(1, 50)).score(proxy), scores)
    other = KulsifFilter(KulsifConfig(sigma=1.0), seed=1).fit(blob(0, 100)).calibrate(blob(1, 50))
    assert (other.score(proxy) != scores).any()


def test_misuse_is_told() -> None:
    kulsif = KulsifFilter(KulsifConfig(), seed=0)
    with pytest.raises(RuntimeError, match="before `fit`"):
        kulsif.accept(blob(0, 2))
    with pytest.raises(DataError, match="kulsif filter got no private sample"):
        kulsif.fit(blob(0, 0))
    with pytest.raises(DataError, match="kulsif filter got no hold-out sample"):
        kulsif.fit(blob(0, 5)).calibrate(blob(0, 0))
    with pytest.raises(DataError, match="3 features, but the kulsif filter was fitted on 4"):
        kulsif.margin(blob(0, 2, width=3))


@pytest.mark.parametrize(
    "options",
    [
        {"sigma": 0.0},
        {"known_share": 1.1},
        {"known_at_least": 0},
        {"known_at_most": 0},
        {"known_draw": "last"},
        {"auxiliary": 0},
        {"regularisation": -0.1},
        {"quantile": 0.0},
    ],
)
def test_bad_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        KulsifConfig(**options)  # type: ignore[arg-type]

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedkd.data.base import Samples
from fedkd.data.config import DataConfig
from fedkd.data.digits import load_digits
from fedkd.errors import ConfigError, DataError
from fedkd.filters.kmeans import KMeansConfig, KMeansFilter
from fedkd.types import Array

ROOT = Path(__file__).parents[2]


def fitted(private: Samples, holdout: Samples, *, seed: int = 0, **options: float | str) -> KMeansFilter:
    config = KMeansConfig(**options)  # type: ignore[arg-type]
    return KMeansFilter(config, seed=seed).fit(private).calibrate(holdout)


def blob(rng: np.random.Generator, center: Array, size: int) -> Array:
    return (center + rng.normal(size=(size, len(center)))).astype(np.float32)


def mixture(rng: np.random.Generator, size: int) -> Samples:
    """Four classes of 12-dimensional data that overlap."""
    labels = rng.integers(0, 4, size)
    centers = np.random.default_rng(99).normal(size=(4, 12)) * 2
    return Samples((centers[labels] + rng.normal(size=(size, 12))).astype(np.float32), labels)


def test_a_hand_worked_case() -> None:
    private = Samples(np.array([[0.0], [2.0], [10.0], [12.0]], np.float32), np.array([0, 0, 1, 1]))
    holdout = Samples(np.array([[1.0], [3.0], [13.0], [16.0]], np.float32), np.array([0, 0, 1, 1]))
    kmeans = fitted(private, holdout, k_per_class=1)  # centroids 1 and 11; distances 0, 2, 2, 5; h^2 = 33/4
    proxy = Samples(np.array([[1.0], [-1.0], [13.0], [13.01], [6.0]], np.float32))
    assert kmeans.accept(proxy).tolist() == [True, True, True, False, False]
    np.testing.assert_allclose(kmeans.score(proxy), np.exp(-np.array([0, 4, 4, 2.01**2, 25]) / 16.5), rtol=1e-5)
    assert kmeans.threshold == pytest.approx(np.exp(-4 / 16.5))
    np.testing.assert_allclose(kmeans.margin(proxy), [1.0, 0.0, 0.0, -0.005, -1.5], atol=1e-6)
    assert kmeans.kept_bytes == 2 * 4 + 8 + 8


def test_scores_fall_with_distance() -> None:
    rng = np.random.default_rng(0)
    kmeans = fitted(Samples(blob(rng, np.zeros(5), 300)), Samples(blob(rng, np.zeros(5), 100)), k_per_class=1)
    ray = Samples(np.linspace(1, 9, 50)[:, None].astype(np.float32) * np.ones((1, 5), np.float32))
    scores = kmeans.score(ray)
    assert (np.diff(scores) < 0).all()
    assert ((scores > 0) & (scores <= 1)).all()


@pytest.mark.parametrize("quantile", [0.5, 0.75, 0.9])
@pytest.mark.parametrize("fit", ["per_class", "joint"])
def test_own_acceptance_on_fresh_data_is_q(quantile: float, fit: str) -> None:
    """500 samples to fit, 500 to calibrate, 500 fresh ones: within 3 points of q, as the mean over 20 clients."""
    rates = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        kmeans = fitted(mixture(rng, 500), mixture(rng, 500), quantile=quantile, fit=fit)
        rates.append(kmeans.accept(mixture(rng, 500)).mean())
    assert np.mean(rates) == pytest.approx(quantile, abs=0.03)


def test_own_acceptance_of_one_client_with_much_data_is_q() -> None:
    rng = np.random.default_rng(0)
    kmeans = fitted(mixture(rng, 500), mixture(rng, 4000))
    assert kmeans.accept(mixture(rng, 4000)).mean() == pytest.approx(0.75, abs=0.03)


def test_training_distances_make_the_threshold_tighter() -> None:
    rng = np.random.default_rng(0)
    private, holdout, fresh = mixture(rng, 500), mixture(rng, 2000), Samples(mixture(rng, 2000).x)
    held_out = fitted(private, holdout, k_per_class=40).accept(fresh).mean()
    trained = fitted(private, holdout, k_per_class=40, threshold_on="train").accept(fresh).mean()
    assert trained < held_out - 0.03


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scale", [10.0, 1e-3])
def test_scaled_features_give_the_same_mask(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    private, holdout, proxy = mixture(rng, 600), mixture(rng, 500), mixture(rng, 2000)

    def scaled(samples: Samples) -> Samples:
        return Samples(samples.x * np.float32(scale), samples.y)

    before = fitted(private, holdout, seed=seed).accept(proxy)
    after = fitted(scaled(private), scaled(holdout), seed=seed).accept(scaled(proxy))
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("width", [2, 8, 16])
def test_separate_blobs_are_told_apart(width: int) -> None:
    """Centres 10 sigma apart: own acceptance q, foreign 0."""
    rng = np.random.default_rng(width)
    centers = 10 / np.sqrt(2) * np.eye(width)
    for own in range(2):
        kmeans = fitted(Samples(blob(rng, centers[own], 1000)), Samples(blob(rng, centers[own], 4000)))
        assert kmeans.accept(Samples(blob(rng, centers[own], 4000))).mean() == pytest.approx(0.75, abs=0.03)
        for other in set(range(width)) - {own}:
            assert not kmeans.accept(Samples(blob(rng, centers[other], 1000))).any()


def digit_rates(k_per_class: int) -> tuple[float, float, float]:
    """Own, foreign and noise acceptance, mean over ten clients with one digit each, pixels."""
    data, rng = load_digits(DataConfig()), np.random.default_rng(0)
    noise = Samples(rng.random((300, 1, 8, 8), dtype=np.float32))
    rates = []
    for digit in range(10):
        ids = rng.permutation(np.flatnonzero(data.train.labels == digit))
        holdout = len(ids) // 5
        private, held_out = data.train.take(ids[holdout:]), data.train.take(ids[:holdout])
        kmeans = fitted(private, held_out, k_per_class=k_per_class)
        own, accepted = data.test.labels == digit, kmeans.accept(data.test)
        rates.append((accepted[own].mean(), accepted[~own].mean(), kmeans.accept(noise).mean()))
    own_rate, foreign_rate, noise_rate = np.mean(rates, axis=0)
    return float(own_rate), float(foreign_rate), float(noise_rate)


def test_digits_of_others_and_noise_are_rejected_and_one_centroid_is_worse() -> None:
    own, foreign, noise = digit_rates(k_per_class=10)
    assert 0.65 < own < 0.85  # q = 0.75; each client calibrates on some 29 samples only
    assert foreign < 0.01
    assert noise == 0.0
    assert digit_rates(k_per_class=1)[1] > 1.5 * foreign


def test_the_whole_hold_out_lies_within_its_largest_distance() -> None:
    rng = np.random.default_rng(0)
    holdout = mixture(rng, 101)
    assert fitted(mixture(rng, 200), holdout, quantile=1.0).accept(holdout).all()
    assert fitted(mixture(rng, 200), holdout, quantile=0.5).accept(holdout).sum() == 51


def test_far_samples_are_judged_by_distance_where_scores_have_run_out() -> None:
    """One outlier in 4,000 hold-out samples sets T_c (q = 1) beyond 38 h, where every score is 0."""
    holdout = Samples(np.concatenate([np.full((3999, 1), 0.01), [[100.0]]]))
    kmeans = fitted(Samples(np.zeros((5, 1))), holdout, quantile=1.0)
    assert kmeans.threshold == 0.0
    proxy = Samples(np.array([[99.0], [100.0], [100.0001], [1e6]]))
    assert kmeans.score(proxy).tolist() == [0.0] * 4
    assert kmeans.accept(proxy).tolist() == [True, True, False, False]
    np.testing.assert_allclose(kmeans.margin(proxy), [0.01, 0.0, -1e-6, 1 - 1e4])


def test_a_hold_out_on_the_centroids_accepts_copies_alone() -> None:
    constant = Samples(np.full((8, 3), 0.1, np.float32), np.zeros(8, np.int64))
    kmeans = fitted(constant, constant)
    proxy = Samples(np.array([[0.1, 0.1, 0.1], [0.1, 0.1, 0.2]], np.float32))
    assert kmeans.accept(proxy).tolist() == [True, False]
    scores = kmeans.score(proxy)
    assert np.isfinite(scores).all()
    assert scores[0] > scores[1]
    assert 0.0 <= kmeans.threshold <= 1.0


@pytest.mark.parametrize("fit", ["per_class", "joint"])
@pytest.mark.parametrize("distinct", [1, 2, 5])
def test_fewer_distinct_samples_than_centroids_are_no_trouble(fit: str, distinct: int) -> None:
    x = np.repeat(np.arange(distinct, dtype=np.float32), 6)[:, None]
    kmeans = fitted(Samples(x, np.zeros(len(x), np.int64)), Samples(x), fit=fit, k_per_class=10)
    np.testing.assert_allclose(kmeans.score(Samples(x)), 1.0)
    assert not kmeans.accept(Samples(np.array([[0.5], [-3.0]]))).any()


def test_nearly_equal_samples_do_not_warn() -> None:
    x = np.array([[0.0], [1e-30], [1.0], [1.0 + 1e-7]], np.float32)
    assert fitted(Samples(x), Samples(x), k_per_class=4, quantile=1.0).accept(Samples(x)).all()


def test_a_class_with_one_sample_gets_one_centroid() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([blob(rng, np.zeros(2), 50), [[40.0, 40.0]]]).astype(np.float32)
    kmeans = fitted(Samples(x, np.array([0] * 50 + [1])), Samples(x))
    assert kmeans.score(Samples(np.array([[40.0, 40.0]]))).tolist() == [1.0]


def test_without_labels_all_samples_are_one_class() -> None:
    rng = np.random.default_rng(0)
    x = blob(rng, np.zeros(3), 200)
    bare, labelled = fitted(Samples(x), Samples(x)), fitted(Samples(x, np.zeros(200, np.int64)), Samples(x))
    np.testing.assert_array_equal(bare.score(Samples(x)), labelled.score(Samples(x)))
    masks = Samples(x, np.zeros((200, 4, 4), np.int64))  # a label per pixel is none per sample
    np.testing.assert_array_equal(fitted(masks, masks).score(Samples(x)), bare.score(Samples(x)))


def test_same_seed_same_scores_and_images_are_flattened() -> None:
    x = np.random.default_rng(0).random((300, 1, 4, 4), dtype=np.float32)
    private, holdout = Samples(x[:200]), Samples(x[200:])
    scores = fitted(private, holdout, seed=3).score(holdout)
    np.testing.assert_array_equal(fitted(private, holdout, seed=3).score(holdout), scores)
    flat = fitted(Samples(x[:200].reshape(200, 16)), holdout, seed=3)
    np.testing.assert_array_equal(flat.score(holdout), scores)
    assert (fitted(private, holdout, seed=4).score(holdout) != scores).any()


def test_an_empty_proxy_is_legal() -> None:
    x = np.random.default_rng(0).random((20, 3), dtype=np.float32)
    assert fitted(Samples(x), Samples(x)).accept(Samples(x[:0])).shape == (0,)


def test_misuse_is_told() -> None:
    x = np.zeros((4, 3), np.float32)
    kmeans = KMeansFilter(KMeansConfig(), seed=0)
    with pytest.raises(RuntimeError, match="before `fit`"):
        kmeans.accept(Samples(x))
    with pytest.raises(DataError, match="no private sample"):
        kmeans.fit(Samples(x[:0]))
    with pytest.raises(DataError, match="no hold-out sample"):
        kmeans.fit(Samples(x)).calibrate(Samples(x[:0]))
    with pytest.raises(DataError, match="2 features, but the kmeans filter was fitted on 3"):
        kmeans.score(Samples(x[:, :2]))


@pytest.mark.parametrize(
    "options",
    [
        {"k_per_class": 0},
        {"fit": "per_clas"},
        {"quantile": 0.0},
        {"quantile": 1.1},
        {"threshold_on": "test"},
        {"threshold_rule": "median"},
        {"threshold_sd": float("nan")},
        {"threshold_constant": 0.0},
        {"algorithm": "elkan"},
        {"minibatch_above": 0},
        {"device": "tpu"},
        {"max_iter": 0},
        {"tol": -1.0},
    ],
)
def test_bad_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        KMeansConfig(**options)  # type: ignore[arg-type]


def test_a_device_that_filters_needs_no_torch() -> None:
    code = (
        "import sys, numpy as np; from fedkd.data.config import DataConfig; from fedkd.data.load import load_dataset; "
        "from fedkd.filters import FILTERS; from fedkd.filters.selection import select\n"
        "from fedkd.lookup import resolve; data = load_dataset(DataConfig()); ids = np.arange(3)\n"
        "for name in FILTERS:\n"
        "    cls = resolve(FILTERS, name, what='filter'); rng = np.random.default_rng(0)\n"
        "    select(cls(cls.Config(), seed=0), private=data.train, proxy=data.test, own_ids=ids, "
        "own_sample_stage=True, holdout=0.2, rng=rng)\n"
        "sys.exit('torch is loaded' if 'torch' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")

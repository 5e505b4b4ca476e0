"""KMeans: the threshold rules, and the ways to cluster."""

import numpy as np
import pytest

from fedkd.data.base import Samples
from fedkd.filters.kmeans import KMeansConfig, KMeansFilter
from tests.filters.test_kmeans import blob, fitted, mixture


def test_the_rule_mean_sd() -> None:
    private, holdout = Samples(np.zeros((4, 1))), Samples(np.array([[1.0], [1.0], [3.0], [3.0]]))
    proxy = Samples(np.array([[2.9], [3.1], [0.1]]))  # mean 2, standard deviation 1
    assert fitted(private, holdout, threshold_rule="mean_sd").accept(proxy).tolist() == [True, False, True]
    strict = fitted(private, holdout, threshold_rule="mean_sd", threshold_sd=-5.0)  # below 0: copies alone
    assert strict.accept(Samples(np.array([[0.0], [0.1]]))).tolist() == [True, False]


def test_the_rule_constant_needs_no_calibration_data_but_for_the_scores() -> None:
    kmeans = fitted(
        Samples(np.zeros((4, 1))), Samples(np.ones((4, 1))), threshold_rule="constant", threshold_constant=0.5
    )
    proxy = Samples(np.array([[0.5], [0.51]]))
    assert kmeans.accept(proxy).tolist() == [True, False]
    np.testing.assert_allclose(kmeans.margin(proxy), [0.0, -0.02])
    assert kmeans.score(proxy)[0] == kmeans.threshold


def test_each_centroid_has_a_reach_of_its_own() -> None:
    """A tight and a wide cluster, and one that no hold-out sample is closest to: it takes the reach of all."""
    private = Samples(np.repeat([[0.0], [100.0], [200.0]], 10, axis=0), np.repeat([0, 1, 2], 10))
    tight, wide = np.arange(1, 11) / 10, 100.0 + np.arange(1, 11)
    holdout = Samples(np.concatenate([tight, wide])[:, None])
    kmeans = fitted(private, holdout, k_per_class=1, threshold_rule="per_centroid", quantile=0.8)
    reach = 6.0  # of all: the 16th of 20 distances; of the tight cluster 0.8, of the wide one 8
    at = np.array([[0.8], [0.81], [107.9], [108.1], [200.0 + reach], [200.1 + reach]])
    assert kmeans.accept(Samples(at)).tolist() == [True, False, True, False, True, False]
    np.testing.assert_allclose(kmeans.margin(Samples(at[[0, 3]])), [0.0, 1 - 8.1 / 8], atol=1e-12)
    assert kmeans.accept(holdout).sum() == 16
    assert kmeans.score(Samples(at[:1]))[0] == pytest.approx(kmeans.threshold)
    assert kmeans.kept_bytes == 3 * 8 + 3 * 8 + 8


@pytest.mark.parametrize("threshold_on", ["holdout", "train"])
@pytest.mark.parametrize("rule", ["quantile", "mean_sd", "per_centroid", "constant"])
def test_every_rule_accepts_by_score_too_and_can_be_calibrated_again(rule: str, threshold_on: str) -> None:
    rng = np.random.default_rng(0)
    private, holdout, proxy = mixture(rng, 500), mixture(rng, 300), mixture(rng, 500)
    kmeans = fitted(private, holdout, threshold_rule=rule, threshold_on=threshold_on, threshold_constant=3.0)
    accepted, scores, margins = kmeans.accept(proxy), kmeans.score(proxy), kmeans.margin(proxy)
    assert 0.4 < accepted.mean() < 1.0
    assert scores[accepted].min() >= scores[~accepted].max()
    assert (np.diff(margins[np.argsort(scores, kind="stable")]) >= 0).all()
    np.testing.assert_array_equal(kmeans.calibrate(holdout).margin(proxy), margins)


@pytest.mark.parametrize("algorithm", ["lloyd", "minibatch", "torch"])
def test_every_algorithm_finds_the_clusters(algorithm: str) -> None:
    rng = np.random.default_rng(0)
    centers = 40.0 * np.eye(4)
    private, holdout = (Samples(np.concatenate([blob(rng, center, size) for center in centers])) for size in (600, 300))
    kmeans = fitted(private, holdout, k_per_class=4, algorithm=algorithm, device="cpu")
    assert kmeans.accept(Samples(centers)).all()
    assert not kmeans.accept(Samples(np.full((1, 4), 20.0))).any()
    assert kmeans.accept(holdout).mean() == pytest.approx(0.75, abs=0.01)


def test_large_data_are_clustered_in_mini_batches() -> None:
    rng = np.random.default_rng(0)
    private, holdout = mixture(rng, 600), mixture(rng, 200)
    whole, same, parts = (
        fitted(private, holdout, fit="joint", **options).score(holdout)
        for options in ({"algorithm": "lloyd"}, {"minibatch_above": 600}, {"minibatch_above": 599})  # type: ignore[arg-type]
    )
    np.testing.assert_array_equal(whole, same)
    assert (whole != parts).any()


def test_sparse_centroids_accept_their_share_beside_a_dense_one() -> None:
    """The T of all would be met by the dense cluster alone, and reject both far samples."""
    private = Samples(np.array([[0.0], [100.0], [200.0]], np.float32), np.arange(3))
    near = np.arange(1, 11, dtype=np.float32)[:, None] / 10
    holdout = Samples(np.concatenate([near, np.array([[105.0], [207.0]], np.float32)]))
    config = KMeansConfig(k_per_class=1, quantile=0.5, threshold_rule="per_centroid")
    accepted = KMeansFilter(config, seed=0).fit(private).calibrate(holdout).accept(holdout)
    assert accepted.tolist() == [True] * 5 + [False] * 5 + [True, False]

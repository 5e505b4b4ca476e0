import numpy as np
import pytest

from fedkd.filters.clustering import lloyd_centers, minibatch_centers
from fedkd.filters.kmeans_torch import torch_centers
from fedkd.functional.kmeans_density import nearest_distance
from fedkd.types import Array


def data(seed: int = 0, size: int = 4000) -> Array:
    rng = np.random.default_rng(seed)
    centers = 3 * rng.normal(size=(12, 8))
    return (centers[rng.integers(0, 12, size)] + rng.normal(size=(size, 8))).astype(np.float32)


def inertia(x: Array, centers: Array) -> float:
    return float((nearest_distance(x, centers) ** 2).mean())


@pytest.mark.parametrize("distinct", [1, 3])
def test_centroids_without_a_sample_are_dropped(distinct: int) -> None:
    x = np.repeat(np.arange(distinct, dtype=np.float32), 5)[:, None]
    for centers in (
        lloyd_centers(x, 4, seed=0, max_iter=10, tol=0.0),
        minibatch_centers(x, 4, seed=0, max_iter=10),
        torch_centers(x, 4, rng=np.random.default_rng(0), max_iter=10, tol=0.0, device="cpu"),
    ):
        np.testing.assert_allclose(np.sort(centers.ravel()), np.arange(distinct), atol=1e-6)
        assert centers.dtype == np.float32


def test_mini_batches_are_about_as_good() -> None:
    x = data()
    whole = lloyd_centers(x, 12, seed=0, max_iter=300, tol=1e-4)
    parts = minibatch_centers(x, 12, seed=0, max_iter=100)
    assert inertia(x, parts) < 1.15 * inertia(x, whole)
    np.testing.assert_array_equal(minibatch_centers(x, 12, seed=0, max_iter=100), parts)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_centroids_are_the_same_where_the_rows_may_be_overwritten(dtype: type) -> None:
    x: Array = (np.random.default_rng(0).normal(size=(200, 6)) + 5.0).astype(dtype)
    kept = x.copy()
    lloyd_centers(x, 7, seed=1, max_iter=50, tol=1e-4)
    np.testing.assert_array_equal(x, kept)
    fitted = [lloyd_centers(x, 7, seed=1, max_iter=50, tol=1e-4, overwrite=may) for may in (False, True)]
    np.testing.assert_array_equal(fitted[0], fitted[1])

import numpy as np
import pytest
import torch

from fedkd.errors import ConfigError
from fedkd.filters import kmeans_torch
from fedkd.filters.clustering import lloyd_centers
from fedkd.filters.kmeans_torch import torch_centers
from fedkd.types import Array
from tests.filters.test_clustering import data, inertia

pytestmark = pytest.mark.usefixtures("one_torch_thread")
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")),
]


def centers(x: Array, k: int, *, seed: int = 0, max_iter: int = 300, device: str = "cpu") -> Array:
    return torch_centers(x, k, rng=np.random.default_rng(seed), max_iter=max_iter, tol=1e-4, device=device)


@pytest.mark.parametrize("device", DEVICES)
def test_a_hand_worked_case(device: str) -> None:
    x = np.array([[0.0], [2.0], [10.0], [12.0]])
    np.testing.assert_allclose(np.sort(centers(x, 2, device=device).ravel()), [1.0, 11.0])
    np.testing.assert_allclose(centers(x, 1, device=device), [[6.0]])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", range(3))
def test_it_is_about_as_good_as_scikit_learn(device: str, seed: int) -> None:
    x = data(seed)
    best = inertia(x, lloyd_centers(x, 12, seed=0, max_iter=300, tol=1e-4))
    assert min(inertia(x, centers(x, 12, seed=start, device=device)) for start in range(3)) < 1.1 * best


@pytest.mark.parametrize("device", DEVICES)
def test_same_seed_same_centroids(device: str) -> None:
    x = data()
    np.testing.assert_array_equal(centers(x, 12, device=device), centers(x, 12, device=device))


def test_blocks_change_rounding_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    x = data(size=500).astype(np.float64)
    whole = centers(x, 5)
    monkeypatch.setattr(kmeans_torch, "_BLOCK_VALUES", 5 * 64)
    np.testing.assert_allclose(centers(x, 5), whole, rtol=1e-9)


def test_data_far_from_the_origin_lose_nothing() -> None:
    x = data(size=500)
    far = centers(x + np.float32(4096.0), 5)
    np.testing.assert_allclose(far - 4096.0, centers(x, 5), atol=0.05)


def test_a_missing_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch sees no GPU"):
        centers(data(size=20), 2, device="cuda")

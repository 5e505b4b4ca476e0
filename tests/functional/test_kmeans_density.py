import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist

from fedkd.functional import kmeans_density
from fedkd.functional.kmeans_density import density_surrogate, nearest_distance
from fedkd.types import Array

VALUES = st.floats(-1e6, 1e6, width=32)


def exact(x: Array, centers: Array) -> Array:
    nearest: Array = cdist(x.astype(np.float64), centers.astype(np.float64)).min(axis=1)
    return nearest


def test_a_hand_worked_case() -> None:
    x, centers = np.array([[0.0, 0.0], [3.0, 4.0], [9.0, 0.0]]), np.array([[0.0, 0.0], [10.0, 0.0]])
    np.testing.assert_array_equal(nearest_distance(x, centers), [0.0, 5.0, 1.0])


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("gap", [0.0, 1e-9, 1e-3, 1.0])
def test_distances_near_zero_keep_their_digits(offset: float, gap: float) -> None:
    """In the matmul form |x|^2 - 2 x.c + |c|^2 a gap of 1e-9 at offset 1e4 would drown in rounding."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(20, 50)) + offset
    x = centers[rng.integers(0, 20, 500)] + gap * rng.normal(size=(500, 50))
    np.testing.assert_allclose(nearest_distance(x, centers), exact(x, centers), rtol=1e-13, atol=0.0)


def test_nearly_equal_centres_are_told_apart() -> None:
    centers = np.full((3, 4), 1e3)
    centers[1] += 1e-9
    centers[2] += 3e-9
    np.testing.assert_array_equal(nearest_distance(centers.copy(), centers), 0.0)


@given(x=arrays(np.float32, (7, 3), elements=VALUES), centers=arrays(np.float64, (4, 3), elements=VALUES))
def test_it_agrees_with_scipy(x: Array, centers: Array) -> None:
    np.testing.assert_allclose(nearest_distance(x, centers), exact(x, centers), rtol=1e-12, atol=0.0)


@given(seed=st.integers(0, 99), size=st.integers(1, 40), width=st.integers(1, 40))
def test_a_row_is_worth_the_same_in_any_company(seed: int, size: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    x, centers = rng.normal(size=(size, width)).astype(np.float32), rng.normal(size=(5, width))
    together = nearest_distance(x, centers)
    alone = [float(nearest_distance(x[i : i + 1], centers)[0]) for i in range(size)]
    assert together.tolist() == alone


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, centers = rng.normal(size=(100, 9)), rng.normal(size=(6, 9))
    whole = nearest_distance(x, centers)
    monkeypatch.setattr(kmeans_density, "_BLOCK_VALUES", 9 * 7)
    np.testing.assert_array_equal(nearest_distance(x, centers), whole)


def test_memory_stays_bounded() -> None:
    import tracemalloc

    x, centers = np.ones((6000, 784), np.float32), np.random.default_rng(0).normal(size=(100, 784))
    tracemalloc.start()
    nearest_distance(x, centers)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 32 * 2**20  # the whole in float64 would take 38 MB, all differences 3.8 GB


def test_no_rows_give_no_distances() -> None:
    assert nearest_distance(np.zeros((0, 3)), np.zeros((2, 3))).shape == (0,)


@pytest.mark.parametrize(("x", "centers"), [((2, 3), (0, 3)), ((2, 3), (4, 2))])
def test_shapes_that_do_not_fit_are_refused(x: tuple[int, int], centers: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"must be \(p, d\) and \(k, d\)"):
        nearest_distance(np.zeros(x), np.zeros(centers))


def test_the_surrogate_is_a_bump_of_the_given_width() -> None:
    np.testing.assert_allclose(density_surrogate(np.array([0.0, 2.0, 4.0]), 2.0), np.exp([0.0, -0.5, -2.0]))


def test_the_surrogate_ends_at_zero_and_has_a_limit_without_width() -> None:
    np.testing.assert_array_equal(density_surrogate(np.array([0.0, 1e9]), 1.0), [1.0, 0.0])
    np.testing.assert_array_equal(density_surrogate(np.array([0.0, 1e-9]), 0.0), [1.0, 0.0])

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist

from fedkd.functional import kmeans_density
from fedkd.functional.kmeans_density import LOWEST_MARGIN, density_surrogate, distance_margin, nearest_distance
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
    monkeypatch.setattr(kmeans_density, "_BLOCK_BYTES", 8 * 9 * 7)
    np.testing.assert_array_equal(nearest_distance(x, centers), whole)


@pytest.mark.parametrize(("width", "k"), [(64, 50), (784, 10), (3072, 3)])
def test_two_float32_arrays_are_compared_in_float32(width: int, k: int) -> None:
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(k, width)).astype(np.float32)
    x = (centers[rng.integers(0, k, 500)] + rng.normal(size=(500, width))).astype(np.float32)
    np.testing.assert_allclose(nearest_distance(x, centers), exact(x, centers), rtol=1e-5, atol=0.0)
    np.testing.assert_array_equal(nearest_distance(centers, centers), 0.0)


def test_float32_rows_are_worth_the_same_in_any_company() -> None:
    rng = np.random.default_rng(0)
    x, centers = rng.normal(size=(600, 784)).astype(np.float32), rng.normal(size=(10, 784)).astype(np.float32)
    together = nearest_distance(x, centers)
    for size in (1, 2, 3, 17, 335):
        some = rng.permutation(600)[:size]
        np.testing.assert_array_equal(nearest_distance(x[some], centers), together[some])


@given(
    x=arrays(np.float32, (7, 3), elements=st.floats(-1e6, 1e6, width=32)),
    centers=arrays(np.float32, (4, 3), elements=st.floats(-1e6, 1e6, width=32)),
    power=st.sampled_from([0, -80, 80]),
)
def test_float32_agrees_with_scipy_at_any_scale(x: Array, centers: Array, power: int) -> None:
    """Squares that leave the range of float32 are taken in float64."""
    x, centers = np.ldexp(x, power), np.ldexp(centers, power)
    np.testing.assert_allclose(nearest_distance(x, centers), exact(x, centers), rtol=1e-5, atol=1e-37)


def test_divided_distances_are_those_of_each_centre() -> None:
    x, centers = np.array([[0.0, 0.0], [3.0, 4.0], [9.0, 0.0]]), np.array([[0.0, 0.0], [10.0, 0.0]])
    scaled = nearest_distance(x, centers, scale=np.array([1.0, 4.0]))
    np.testing.assert_array_equal(scaled, [0.0, np.sqrt(65.0) / 4.0, 0.25])
    np.testing.assert_array_equal(nearest_distance(x, centers, scale=np.ones(2)), nearest_distance(x, centers))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_memory_stays_bounded(dtype: type) -> None:
    import tracemalloc

    x = np.ones((6000, 784), np.float32)
    centers = np.random.default_rng(0).normal(size=(100, 784)).astype(dtype)
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


def test_the_margin_is_zero_at_the_threshold() -> None:
    np.testing.assert_array_equal(distance_margin(np.array([0.0, 1.0, 2.0, 4.0]), 2.0), [1.0, 0.5, 0.0, -1.0])


def test_the_margin_has_an_end_and_a_limit_without_reach() -> None:
    np.testing.assert_array_equal(distance_margin(np.array([0.0, 1e300]), 1e-300), [1.0, LOWEST_MARGIN])
    np.testing.assert_array_equal(distance_margin(np.array([0.0, 1e-9]), 0.0), [1.0, LOWEST_MARGIN])


@given(reach=st.floats(1e-30, 1e30))
def test_the_next_distance_beyond_the_threshold_has_a_margin_below_zero(reach: float) -> None:
    beyond = distance_margin(np.array([np.nextafter(reach, np.inf), reach, np.nextafter(reach, 0)]), reach)
    assert (beyond >= 0).tolist() == [False, True, True]

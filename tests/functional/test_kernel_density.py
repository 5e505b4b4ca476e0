import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.functional.kernel_density import LOG_FLOOR, gaussian_kernel, kernel_sum, log_level, ratio_of
from fedkd.types import Array

MANTISSAS = st.floats(-1e6, 1e6).filter(lambda value: value == 0 or abs(value) > 1e-6)


def naive(a: Array, b: Array, sigma: float) -> Array:
    """From the differences."""
    squares = ((a[:, None].astype(np.float64) - b[None]) ** 2).sum(axis=2)
    kernel: Array = np.exp(-squares / (2 * sigma**2))
    return kernel


def drawn(seed: int, size: int, width: int, offset: float = 0.0) -> Array:
    return np.random.default_rng(seed).normal(size=(size, width)) + offset


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_the_kernel_is_that_of_the_differences(offset: float) -> None:
    a, b = drawn(0, 30, 5, offset), drawn(1, 20, 5, offset)
    np.testing.assert_allclose(gaussian_kernel(a, b, sigma=1.3), naive(a, b, 1.3), rtol=1e-9)
    kernel = gaussian_kernel(a, a, sigma=0.1)
    assert kernel.max() == 1.0
    np.testing.assert_allclose(np.diag(kernel), 1.0, atol=1e-9)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_sums_with_weights_of_both_signs(offset: float) -> None:
    x, points, weights = drawn(0, 300, 6, offset), drawn(1, 40, 6, offset), drawn(2, 40, 1)[:, 0]
    mantissa, exponent = kernel_sum(x, points, weights, sigma=2.0)
    np.testing.assert_allclose(mantissa * np.exp(exponent), naive(x, points, 2.0) @ weights, rtol=1e-7, atol=1e-9)
    assert (exponent <= 0).all()


def test_far_rows_keep_their_digits() -> None:
    points, weights = np.array([[0.0], [1.0]]), np.array([3.0, 5.0])
    mantissa, exponent = kernel_sum(np.array([[1e3], [2e3]]), points, weights, sigma=1.0)
    assert (np.exp(exponent) == 0).all()  # the sum itself has no digit left
    np.testing.assert_allclose(np.log(mantissa) + exponent, np.log(5.0) - 0.5 * np.array([999.0, 1999.0]) ** 2)


@given(seed=st.integers(0, 99), size=st.integers(1, 600), width=st.integers(1, 60))
def test_a_row_is_worth_the_same_in_any_company(seed: int, size: int, width: int) -> None:
    x, points, weights = drawn(seed, 700, width), drawn(seed + 1, 33, width), drawn(seed + 2, 33, 1)[:, 0]
    together = kernel_sum(x, points, weights, sigma=3.0)
    some = np.random.default_rng(seed).permutation(700)[:size]
    for part, whole in zip(kernel_sum(x[some], points, weights, sigma=3.0), together, strict=True):
        np.testing.assert_array_equal(part, whole[some])


def test_memory_stays_bounded() -> None:
    import tracemalloc

    x, points = np.ones((6000, 784), np.float32), np.random.default_rng(0).normal(size=(520, 784)).astype(np.float32)
    tracemalloc.start()
    kernel_sum(x, points, np.ones(520), sigma=5.0)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 16 * 2**20  # the kernel of all rows would take 25 MB, the differences 20 GB


def test_no_rows_give_no_sums() -> None:
    mantissa, exponent = kernel_sum(np.zeros((0, 2)), np.zeros((3, 2)), np.ones(3), sigma=1.0)
    assert mantissa.shape == exponent.shape == (0,)


@pytest.mark.parametrize(("points", "weights"), [((0, 2), 0), ((3, 1), 3), ((3, 2), 2)])
def test_shapes_that_do_not_fit_are_refused(points: tuple[int, int], weights: int) -> None:
    with pytest.raises(ValueError, match=r"must be \(p, d\), \(n, d\) and \(n,\)"):
        kernel_sum(np.zeros((4, 2)), np.zeros(points), np.zeros(weights), sigma=1.0)


def test_levels_by_hand() -> None:
    level = log_level(np.array([2.0, 1.0, 0.0, -3.0, 1.0]), np.array([-1.0, -5e3, -1.0, 0.0, -2e6]))
    np.testing.assert_allclose(level, [np.log(2) - 1, -5e3, LOG_FLOOR, LOG_FLOOR - 3, LOG_FLOOR])
    np.testing.assert_allclose(ratio_of(level), [2 / np.e, 0.0, 0.0, -3.0, 0.0])


@given(mantissas=st.lists(MANTISSAS, min_size=2, max_size=9), exponents=st.lists(st.floats(-900, 0), min_size=9))
def test_levels_and_ratios_never_fall_while_the_sum_grows(mantissas: list[float], exponents: list[float]) -> None:
    mantissa, exponent = np.array(mantissas), np.array(exponents[: len(mantissas)])
    level = log_level(mantissa, exponent)
    assert np.isfinite(level).all()
    order = np.argsort(level, kind="stable")
    assert (np.diff(ratio_of(level)[order]) >= 0).all()
    np.testing.assert_allclose(ratio_of(level), mantissa * np.exp(exponent), rtol=1e-9, atol=1e-9)

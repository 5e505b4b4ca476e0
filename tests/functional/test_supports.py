import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedkd.functional.aggregation import LOG_FLOOR, log_normalise
from fedkd.functional.supports import spread_support, top_support
from fedkd.types import Array


def test_the_largest_and_the_rest_by_hand() -> None:
    values, support = top_support(np.log([[0.1, 0.5, 0.15, 0.25]]), 2)
    assert support.tolist() == [[1, 3]]
    np.testing.assert_allclose(np.exp(values), [[0.5, 0.25, 0.25]], rtol=1e-6)
    np.testing.assert_allclose(np.exp(spread_support(values, support, 4)), [[0.125, 0.5, 0.125, 0.25]], rtol=1e-6)


def test_of_equal_values_the_lower_column_stays() -> None:
    assert top_support(np.log(np.full((1, 4), 0.25)), 2)[1].tolist() == [[0, 1]]


def test_what_is_impossible_travels_as_the_floor() -> None:
    with np.errstate(divide="ignore"):
        values, _ = top_support(np.log(np.array([[1.0, 0.0, 0.0]])), 2)
    assert values.tolist() == [[0, LOG_FLOOR, LOG_FLOOR]]


@given(
    arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 9)), elements=st.sampled_from([-np.inf, -3, -1, 0])),
    st.integers(1, 8),
)
def test_the_support_by_its_definition(logits: Array, k: int) -> None:
    """Few values, so that most are equal; what a row is worth in all does not matter here."""
    k = min(k, logits.shape[1] - 1)
    values, support = top_support(logits, k)
    order = np.argsort(-logits, axis=1, kind="stable")
    chosen = np.sort(order[:, :k], axis=1)
    np.testing.assert_array_equal(support, chosen)
    tail = np.logaddexp.reduce(np.take_along_axis(logits, order[:, k:], axis=1), axis=1, keepdims=True)
    expected = np.concatenate([np.take_along_axis(logits, chosen, axis=1), tail], axis=1)
    np.testing.assert_allclose(values, np.maximum(expected, LOG_FLOOR), rtol=1e-6, atol=1e-12)


def test_a_long_tail_of_small_masses_is_not_lost() -> None:
    values, _ = top_support(log_normalise(np.repeat([[0.0, -60.0]], [1, 5000], axis=1)), 1)
    np.testing.assert_allclose(values, [[0, -60 + np.log(5000)]], rtol=1e-6)


def test_no_rows_have_no_support() -> None:
    values, support = top_support(np.zeros((0, 5)), 2)
    assert (values.shape, support.shape, support.dtype) == ((0, 3), (0, 2), np.int32)
    assert spread_support(values, support, 5).shape == (0, 5)


@given(arrays(np.float32, (3, 6), elements=st.floats(-20, 20, width=32)), st.integers(1, 5))
def test_cutting_down_what_was_spread_gives_it_back(logits: Array, k: int) -> None:
    values, support = top_support(log_normalise(logits), k)
    dense = spread_support(values, support, 6)
    np.testing.assert_allclose(np.exp(dense).sum(1), 1, rtol=1e-5)
    again, _ = top_support(dense, k)
    np.testing.assert_allclose(np.sort(again[:, :k]), np.sort(values[:, :k]), atol=1e-4)  # ties may choose otherwise
    np.testing.assert_allclose(again[:, k], values[:, k], atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(dense, support.astype(np.int64), 1), values[:, :k], atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_log_normalising_by_hand(scale: float) -> None:
    made = log_normalise(np.array([[0.0, np.log(3.0)], [scale, -scale]]))
    np.testing.assert_allclose(np.exp(made[0]), [0.25, 0.75])
    np.testing.assert_allclose(made[1], [-np.log1p(np.exp(-2 * scale)), max(-2 * scale, LOG_FLOOR)], atol=0.2)

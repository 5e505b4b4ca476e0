import math

import numpy as np
import pytest

from fedkd.functional.aggregation import entropy_reduction, row_entropy, softmax


def test_softmax_by_hand() -> None:
    np.testing.assert_allclose(softmax(np.array([[0.0, math.log(3)]])), [[0.25, 0.75]])
    np.testing.assert_allclose(softmax(np.array([[0.0, 2 * math.log(3)]]), temperature=2.0), [[0.25, 0.75]])


def test_softmax_is_safe_for_large_values_and_keeps_the_precision() -> None:
    soft = softmax(np.array([[1e4, -1e4], [-1e4, -1e4]], np.float32))
    assert soft.dtype == np.float32
    np.testing.assert_array_equal(soft, [[1.0, 0.0], [0.5, 0.5]])
    assert softmax(np.zeros((0, 3))).shape == (0, 3)


def test_era_at_a_tenth_by_hand() -> None:
    sharp = entropy_reduction(np.array([[0.5, 0.3, 0.2], [0.6, 0.4, 0.0]]), temperature=0.1)
    first = np.exp([0.0, -2.0, -3.0])  # of 5, 3 and 2
    second = np.exp([0.0, -2.0, -6.0])  # of 6, 4 and 0
    np.testing.assert_allclose(sharp, [first / first.sum(), second / second.sum()])
    np.testing.assert_allclose(sharp[0], [0.843795, 0.114195, 0.042010], atol=1e-6)


def test_era_tends_to_the_one_hot_of_the_mean() -> None:
    probs = np.array([[0.34, 0.33, 0.33], [0.1, 0.2, 0.7]])
    np.testing.assert_allclose(entropy_reduction(probs, temperature=1e-4), [[1, 0, 0], [0, 0, 1]], atol=1e-12)
    for dtype in (np.float32, np.float64):
        limit = entropy_reduction(probs.astype(dtype), temperature=1e-30)
        np.testing.assert_array_equal(limit, [[1, 0, 0], [0, 0, 1]])
    undecided = entropy_reduction(np.array([[0.5, 0.5]]), temperature=1e-30)
    np.testing.assert_array_equal(undecided, [[0.5, 0.5]])  # of equals, none wins


def test_era_at_one_is_not_the_mean_itself() -> None:
    assert entropy_reduction(np.array([[1.0, 0.0]]), temperature=1.0)[0, 0] == pytest.approx(1 / (1 + math.exp(-1)))


@pytest.mark.parametrize("classes", [2, 10])
def test_entropy_of_the_uniform_is_the_log_of_the_classes(classes: int) -> None:
    assert row_entropy(np.full((1, classes), 1 / classes))[0] == pytest.approx(math.log(classes))


def test_entropy_by_hand() -> None:
    probs = np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(row_entropy(probs), [1.5 * math.log(2), 0.0])

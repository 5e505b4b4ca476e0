import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedkd.functional.aggregation import row_entropy, softmax
from fedkd.functional.selection import ambiguity, certain_mask
from fedkd.types import Array

PROBS = np.array([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]])


def test_ambiguity_by_hand() -> None:
    np.testing.assert_allclose(ambiguity(PROBS), [0.6, 0, 4 / 3, 1])


@given(arrays(np.float64, (4, 5), elements=st.floats(-20, 20)))
def test_ambiguity_is_the_distance_to_the_own_one_hot(logits: Array) -> None:
    probs = softmax(logits)
    one_hot = np.eye(5)[probs.argmax(1)]
    np.testing.assert_allclose(ambiguity(probs), np.abs(one_hot - probs).sum(1), atol=1e-12)
    assert (ambiguity(probs) <= 2 * (1 - 1 / 5) + 1e-12).all()


@pytest.mark.parametrize(
    ("threshold", "keep"),
    [
        (2.0, [True, True, True, True]),
        (1.0, [True, True, False, False]),  # strictly below: the last row has exactly 1
        (0.5, [False, True, False, False]),
        (0.0, [False, False, False, False]),
    ],
)
def test_rows_nearer_than_the_threshold_are_kept(threshold: float, keep: list[bool]) -> None:
    assert certain_mask(PROBS, form="l1", threshold=threshold).tolist() == keep


@pytest.mark.parametrize(
    ("threshold", "keep"),
    [
        (math.log(3) + 1e-9, [True, True, True, True]),
        (0.81, [True, True, False, True]),  # entropies 0.802, 0, 1.099 and 0.693
        (0.7, [False, True, False, True]),
        (0.0, [False, True, False, False]),
    ],
)
def test_rows_of_no_more_entropy_than_the_threshold_are_kept(threshold: float, keep: list[bool]) -> None:
    assert certain_mask(PROBS, form="entropy", threshold=threshold).tolist() == keep
    at_the_edge = float(row_entropy(PROBS)[3])
    assert certain_mask(PROBS, form="entropy", threshold=at_the_edge)[3]


@given(arrays(np.float32, (4, 10), elements=st.floats(-50, 50, width=32)))
def test_a_threshold_of_two_keeps_every_distribution(logits: Array) -> None:
    assert certain_mask(softmax(logits), form="l1", threshold=2.0).all()
    assert certain_mask(np.full((1, 1000), 1e-3, np.float32), form="l1", threshold=2.0).all()


def test_no_rows_no_mask() -> None:
    for form in ("l1", "entropy"):
        assert certain_mask(np.zeros((0, 3)), form=form, threshold=1.0).shape == (0,)

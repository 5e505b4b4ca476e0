import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.functional.confusion import accuracy, class_ious, confusion_counts, harmonic_mean, mean_iou

# Class 0: 3 right, 1 taken for 1. Class 1: 2 right. Class 2 appears as a prediction alone. Class 3 never.
COUNTS = np.array([[3, 1, 0, 0], [0, 2, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_counts_by_hand() -> None:
    true, predicted = np.array([0, 0, 1, -100, 255, 1]), np.array([0, 1, 1, 0, 1, 1])
    assert confusion_counts(true, predicted, num_classes=2).tolist() == [[1, 1], [0, 2]]


def test_accuracy_by_hand() -> None:
    assert accuracy(COUNTS) == 5 / 8
    assert accuracy(COUNTS, np.array([0])) == 3 / 4
    assert accuracy(COUNTS, np.array([2, 3])) == 0.0


def test_iou_by_hand() -> None:
    values, appears = class_ious(COUNTS)
    assert values.tolist() == [3 / 4, 2 / 5, 0, 0]
    assert appears.tolist() == [True, True, True, False]
    assert mean_iou(COUNTS) == pytest.approx((3 / 4 + 2 / 5 + 0) / 3)
    assert mean_iou(COUNTS, np.array([0, 3])) == 3 / 4  # class 3 does not appear: it does not count
    assert mean_iou(COUNTS, np.array([3])) == 0.0


def test_harmonic_mean_by_hand() -> None:
    assert harmonic_mean(0.5, 1.0) == pytest.approx(2 / 3)
    assert harmonic_mean(0.0, 0.0) == 0.0


@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 2)), max_size=30), st.integers(0, 30))
def test_counts_add_up_over_parts(made: list[tuple[int, int]], cut: int) -> None:
    true, predicted = np.array([t for t, _ in made], np.int64), np.array([p for _, p in made], np.int64)
    parts = [confusion_counts(true[at], predicted[at], num_classes=3) for at in (slice(cut), slice(cut, None))]
    assert (sum(parts) == confusion_counts(true, predicted, num_classes=3)).all()
    assert 0 <= mean_iou(parts[0]) <= 1

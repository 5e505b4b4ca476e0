"""What a confusion matrix says: rows are true classes, columns predicted ones. Counts add up over blocks."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from fedkd.types import Array, Ids, Mask


def confusion_counts(true: Int[Array, " n"], predicted: Int[Array, " n"], *, num_classes: int) -> Int[Array, "c c"]:
    """How often each class was taken for each; a true class outside 0..c-1 (void, ignored) counts for nothing."""
    keep = (true >= 0) & (true < num_classes)
    counts = np.bincount(true[keep].astype(np.int64) * num_classes + predicted[keep], minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def accuracy(confusion: Int[Array, "c c"], classes: Ids | None = None) -> float:
    """Share of right predictions, over the samples of `classes` (None: of all); 0 where there are none."""
    chosen = confusion if classes is None else confusion[classes]
    right = np.trace(confusion) if classes is None else confusion[classes, classes].sum()
    return float(right / max(chosen.sum(), 1))


def class_ious(confusion: Int[Array, "c c"]) -> tuple[Float[Array, " c"], Mask]:
    """Intersection over union of each class (0 where it has none), and which classes appear at all."""
    union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    return np.diag(confusion) / np.maximum(union, 1), union > 0


def mean_iou(confusion: Int[Array, "c c"], classes: Ids | None = None) -> float:
    """Mean IoU over those of `classes` (None: of all) that appear, in truth or in prediction; 0 where none does."""
    values, appears = class_ious(confusion)
    keep = appears if classes is None else appears & np.isin(np.arange(len(values)), classes)
    return float(values[keep].mean()) if keep.any() else 0.0


def harmonic_mean(first: float, second: float) -> float:
    """2ab / (a + b); 0 where both are 0."""
    return 2 * first * second / (first + second) if first + second > 0 else 0.0

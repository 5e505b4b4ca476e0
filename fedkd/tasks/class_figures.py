"""Figures from a confusion matrix, for the tasks that have classes."""

from __future__ import annotations

import numpy as np

from fedkd.data.base import Samples
from fedkd.functional.confusion import accuracy, confusion_counts, harmonic_mean, mean_iou
from fedkd.rows import Rows
from fedkd.tasks.base import Evaluation, Tally
from fedkd.types import Array, Ids, Metrics


def class_tally(rows: Rows, samples: Samples, *, num_classes: int) -> Tally:
    """The confusion matrix of one row per sample; logits and probabilities alike."""
    true = samples.labels[rows.ids]
    return {"confusion": confusion_counts(true, rows.values.argmax(axis=1), num_classes=num_classes)}


def accuracy_figures(confusion: Array, *, seen: Ids | None) -> Evaluation:
    """`acc`; with `seen` also `acc_seen`, `acc_unseen` and `acc_harmonic`."""
    acc = accuracy(confusion)
    metrics: Metrics = {"acc": acc}
    if seen is not None:
        parts = [accuracy(confusion, classes) for classes in (seen, _others(confusion, seen))]
        metrics |= {"acc_seen": parts[0], "acc_unseen": parts[1], "acc_harmonic": harmonic_mean(*parts)}
    return Evaluation(score=acc, metrics=metrics, tables={"confusion": confusion})


def iou_figures(confusion: Array, *, seen: Ids | None) -> Evaluation:
    """`miou` and `pixel_acc`; with `seen` also `siou`, `uiou` and `hiou`, their harmonic mean."""
    miou = mean_iou(confusion)
    metrics: Metrics = {"miou": miou, "pixel_acc": accuracy(confusion)}
    if seen is not None:
        parts = [mean_iou(confusion, classes) for classes in (seen, _others(confusion, seen))]
        metrics |= {"siou": parts[0], "uiou": parts[1], "hiou": harmonic_mean(*parts)}
    return Evaluation(score=miou, metrics=metrics, tables={"confusion": confusion})


def _others(confusion: Array, seen: Ids) -> Ids:
    return np.setdiff1d(np.arange(len(confusion)), seen)

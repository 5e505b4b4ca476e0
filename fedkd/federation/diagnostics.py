"""What the coordinator can say of filters and teachers where it knows labels. Never sent, never used to decide."""

from __future__ import annotations

from typing import Any, final

import numpy as np

from fedkd import metric_names as m
from fedkd.federation.setting import Setting
from fedkd.functional.aggregation import row_entropy
from fedkd.functional.teachers import heard_columns, teacher_probs
from fedkd.rows import Knowledge, Rows, Share
from fedkd.types import Array, Ids, Mask


def acceptance(setting: Setting, class_counts: Array | None, num_clients: int) -> dict[str, Any]:
    """Accept rates of the filters: own = samples of classes that the client holds, foreign = the others."""
    if setting.proxy is None:
        return {}
    masks = [setting.accepted.get(i) for i in range(num_clients)]
    known = [mask for mask in masks if mask is not None]
    numbers: dict[str, Any] = {m.ACCEPT_RATE: float(np.mean([mask.mean() for mask in known]))}
    if setting.labels is None or class_counts is None:
        return numbers
    classes = class_counts.shape[1]
    total = np.bincount(setting.labels, minlength=classes)
    own: list[float] = []
    foreign: list[float] = []
    by_class: list[list[float | None]] = []
    for client_id, mask in enumerate(masks):
        if mask is None:
            by_class.append([None] * classes)
            continue
        is_own = class_counts[client_id][setting.labels] > 0
        own += [float(mask[is_own].mean())] if is_own.any() else []
        foreign += [float(mask[~is_own].mean())] if (~is_own).any() else []
        hits = np.bincount(setting.labels[mask], minlength=classes)
        by_class.append([float(hits[k] / total[k]) if total[k] else None for k in range(classes)])
    numbers[m.ACCEPT_RATE_OWN] = float(np.mean(own)) if own else None
    numbers[m.ACCEPT_RATE_FOREIGN] = float(np.mean(foreign)) if foreign else None
    numbers[m.ACCEPT_BY_CLASS] = by_class
    return numbers


@final
class Teaching:
    """Coverage, voters and purity of the main rows in proxy space; accuracy and entropy of what was aggregated.

    Args:
        asked: proxy samples asked for; None for all.
        valid: (p, rows_per_sample) mask of the rows that count; None where all of them do.
        has_classes: what the setting knows of the proxy samples are their classes, not just groups.
    """

    def __init__(
        self,
        setting: Setting,
        class_counts: Array | None,
        *,
        asked: Ids | None,
        rows_per_sample: int,
        valid: Mask | None = None,
        has_classes: bool = True,
    ) -> None:
        self._setting = setting
        self._class_counts = class_counts
        self._rows_per_sample = rows_per_sample
        self._has_classes = has_classes
        self._votes, self._pure, self._num_asked = 0, 0, 1
        self._covered = np.zeros(0, bool)
        if setting.proxy is not None:
            samples = np.arange(len(setting.proxy)) if asked is None else asked
            rows = len(samples) * rows_per_sample if valid is None else int(valid[samples].sum())
            self._num_asked = max(1, rows)
            self._covered = np.zeros(len(setting.proxy) * rows_per_sample, bool)

    def add(self, share: Share) -> None:
        """Count one more share."""
        if self._setting.proxy is None:
            return
        for rows in share.rows:
            if rows.space == "proxy" and not rows.variant:
                self._votes += len(rows)
                self._covered[rows.ids] = True
                if self._knows_labels and self._class_counts is not None:
                    self._pure += _pure(rows, share.client_id, self._class_counts, self._labels)

    def numbers(self, knowledge: Knowledge) -> dict[str, Any]:
        """The figures, once all shares are counted and combined."""
        if self._setting.proxy is None:
            return {}
        numbers: dict[str, Any] = {
            m.COVERAGE: int(self._covered.sum()) / self._num_asked,
            m.VOTERS: self._votes / self._num_asked,
        }
        taught = next((rows for rows in knowledge.rows("proxy") if not rows.variant), None)
        if taught is not None and (taught.kind not in {"logits", "probs", "log_probs"} or taught.support is not None):
            taught = None  # no distribution over classes
        if taught is not None:
            numbers[m.TEACHER_ENTROPY] = float(row_entropy(teacher_probs(taught)).mean())
        if not self._knows_labels:
            return numbers
        if self._has_classes and taught is not None:
            heard = heard_columns(taught)
            scored = taught.values if heard is None else np.where(heard, taught.values, -np.inf)
            numbers[m.TEACHER_ACC] = float((scored.argmax(axis=1) == self._labels[taught.ids]).mean())
        if self._class_counts is not None and self._votes:
            numbers[m.PURITY] = self._pure / self._votes
        return numbers

    @property
    def _knows_labels(self) -> bool:
        return self._setting.labels is not None and self._rows_per_sample == 1

    @property
    def _labels(self) -> Array:
        assert self._setting.labels is not None
        return self._setting.labels


def _pure(rows: Rows, client_id: int, class_counts: Array, labels: Array) -> int:
    """How many of a client's rows are of a class that it holds."""
    return int((class_counts[client_id][labels[rows.ids]] > 0).sum())

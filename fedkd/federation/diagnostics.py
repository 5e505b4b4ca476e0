"""What the coordinator can say of filters and teachers where it knows labels. Never sent, never used to decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


def teaching(
    setting: Setting,
    class_counts: Array | None,
    shares: Sequence[Share],
    knowledge: Knowledge,
    *,
    asked: Ids | None,
    rows_per_sample: int,
    valid: Mask | None = None,
    has_classes: bool = True,
) -> dict[str, Any]:
    """Coverage, voters and purity of the main rows in proxy space; accuracy and entropy of what was aggregated.

    Args:
        valid: (p, rows_per_sample) mask of the rows that count; None where all of them do.
        has_classes: what the setting knows of the proxy samples are their classes, not just groups.
    """
    spoken = [(s.client_id, rows) for s in shares for rows in s.rows if rows.space == "proxy" and not rows.variant]
    if setting.proxy is None:
        return {}
    samples = np.arange(len(setting.proxy)) if asked is None else asked
    num_asked = max(1, len(samples) * rows_per_sample if valid is None else int(valid[samples].sum()))
    votes = sum(len(rows) for _, rows in spoken)
    covered = len(np.unique(np.concatenate([rows.ids for _, rows in spoken]))) if spoken else 0
    numbers: dict[str, Any] = {m.COVERAGE: covered / num_asked, m.VOTERS: votes / num_asked}
    taught = next((rows for rows in knowledge.rows("proxy") if not rows.variant), None)
    if taught is not None and (taught.kind not in {"logits", "probs", "log_probs"} or taught.support is not None):
        taught = None  # no distribution over classes
    if taught is not None:
        numbers[m.TEACHER_ENTROPY] = float(row_entropy(teacher_probs(taught)).mean())
    if setting.labels is None or rows_per_sample != 1:
        return numbers
    if has_classes and taught is not None:
        heard = heard_columns(taught)
        scored = taught.values if heard is None else np.where(heard, taught.values, -np.inf)
        numbers[m.TEACHER_ACC] = float((scored.argmax(axis=1) == setting.labels[taught.ids]).mean())
    if class_counts is not None and votes:
        numbers[m.PURITY] = (
            sum(_pure(rows, client_id, class_counts, setting.labels) for client_id, rows in spoken) / votes
        )
    return numbers


def _pure(rows: Rows, client_id: int, class_counts: Array, labels: Array) -> int:
    """How many of a client's rows are of a class that it holds."""
    return int((class_counts[client_id][labels[rows.ids]] > 0).sum())

"""The numbers of a round that every experiment has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedkd import metric_names as m
from fedkd.federation.answers import Answers
from fedkd.federation.messages import RoundRequest


def round_numbers(
    request: RoundRequest,
    answers: Answers,
    *,
    scores: Mapping[int, float],
    downlink: Mapping[int, int],
    num_clients: int,
    metric: str,
) -> dict[str, Any]:
    """Replies, bytes, scores and what the trainers report.

    Args:
        scores: the last known score of every client, the failed ones included: the mean is over all of them.
        downlink: payload bytes sent to each client.
        metric: name of what clients are scored by; accuracy goes under its own names too.
    """
    clients, good = range(num_clients), answers.good
    numbers: dict[str, Any] = {
        m.GOOD_REPLIES: len(good),
        m.REJECTED: len(answers.rejected),
        m.FAILURES: len(answers.failures),
        m.UPLINK_BYTES: sum(answers.uplink.values()),
        m.UPLINK_PER_CLIENT: [answers.uplink.get(i) for i in clients],
        m.DOWNLINK_BYTES: sum(downlink.values()),
    }
    if request.evaluate and scores:
        per_client = [good[i].score if i in good else None for i in clients]
        mean = float(np.mean([scores[i] for i in sorted(scores)]))
        numbers |= {m.SCORE_MEAN: mean, m.SCORE_PER_CLIENT: per_client}
        if metric == "acc":
            numbers |= {m.ACC_MEAN: mean, m.ACC_PER_CLIENT: per_client}
        else:
            numbers[m.SCORE_NAME] = metric
        numbers |= _means([good[i].metrics for i in sorted(good)], m.FIGURES_PREFIX, without=metric)
        if request.closing:
            tables = [good[i].tables.get("confusion") if i in good else None for i in clients]
            if any(table is not None for table in tables):
                numbers[m.CONFUSION] = [None if table is None else table.tolist() for table in tables]
    return numbers | _means([good[i].share.metrics for i in sorted(good)], m.TRAIN_PREFIX)


def _means(reports: Sequence[Mapping[str, float]], prefix: str, *, without: str = "") -> dict[str, float]:
    """The mean of each figure over the clients that report it."""
    names = sorted({name for report in reports for name in report} - {without})
    return {prefix + name: float(np.mean([report[name] for report in reports if name in report])) for name in names}

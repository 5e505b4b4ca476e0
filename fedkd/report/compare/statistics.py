"""Paired tests over seeds and Holm's correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

ROUNDING = 1e-12  # differences that agree to this share of the values are taken as equal


def paired_p(first: Mapping[str, float], second: Mapping[str, float]) -> float | None:
    """Two-sided p of the paired t-test over the seeds that both have; None where they share fewer than two.

    Where all differences are equal, t does not exist: p is 1 if they are zero, else that of the exact sign test,
    2^(1-n), so that two seeds which happen to differ by the same count of test samples prove nothing.
    """
    shared = [seed for seed in first if seed in second]
    if len(shared) < 2:
        return None
    a, b = (np.array([values[seed] for seed in shared]) for values in (first, second))
    differences = a - b
    rounding = ROUNDING * float(np.abs([a, b]).max())
    if np.ptp(differences) <= rounding:
        return 1.0 if abs(float(differences.mean())) <= rounding else float(2.0 ** (1 - len(shared)))
    return float(stats.ttest_rel(a, b).pvalue)


def holm(values: Sequence[float]) -> list[float]:
    """The p values corrected for their number (Holm 1979), in the order given.

    The i-th smallest of n is multiplied by n - i (i from 0), and is at least the one before it and at most 1.
    """
    corrected = [0.0] * len(values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - place) * values[index]))
        corrected[index] = highest
    return corrected

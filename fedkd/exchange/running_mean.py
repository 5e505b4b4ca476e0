"""The weighted mean of rows that come one client after another."""

from __future__ import annotations

from typing import final

import numpy as np

from fedkd.exchange.voices import Combined, as_matrix, heard_weight
from fedkd.rows import Rows
from fedkd.types import Array, Ids


@final
class RunningMean:
    """Of each entry t(i) = sum_c w_c(i) v_c(i) / sum_c w_c(i); only sums are kept, in float64 and in the order given.

    Args:
        kind: of the rows; probabilities are scaled to sum to one, logits say what nobody owns.
        width: columns of the values.
    """

    def __init__(self, kind: str, width: int) -> None:
        self._kind = kind
        self._ids: Ids = np.zeros(0, np.int64)
        self._voters: Array = np.zeros((0, 1))
        self._plain: Array = np.zeros((0, width))
        self._weighted: tuple[Array, Array] | None = None  # sums of w v and of w, once anybody has weights

    def add(self, rows: Rows) -> None:
        """What one more client says."""
        at = self._places(rows.ids)  # ids of one client are unique, so += meets each row once
        if rows.weight is not None and self._weighted is None:  # whoever spoke before counts with a weight of one
            self._weighted = self._plain.copy(), self._voters.repeat(self._plain.shape[1], axis=1)
        self._plain[at] += rows.values
        self._voters[at] += 1
        if self._weighted is not None:
            weighted, weights = self._weighted
            weight = as_matrix(rows.weight, len(rows))
            weighted[at] += weight * rows.values.astype(np.float64)
            weights[at] += weight

    def result(self) -> Combined:
        """The mean of what was said so far; where all weights of an entry are zero, its voters' plain mean."""
        mean, heard = self._plain / self._voters, None
        if self._weighted is not None:
            weighted, weights = self._weighted
            mean = np.divide(weighted, weights, out=mean, where=weights > 0)
            if self._kind == "probs":
                total = mean.sum(axis=1, keepdims=True)
                # Voices that are heard only where they say nothing leave a row of zeros: again the plain mean stands.
                mean = np.divide(mean, total, out=self._plain / self._voters, where=total > 0)
            if self._kind == "logits":
                heard = heard_weight(weights > 0)
        return Combined(self._ids, mean, self._voters[:, 0].copy(), heard)

    def _places(self, ids: Ids) -> Ids | slice:
        """Where these ids stand in the sums, which grow by those that are new."""
        if np.array_equal(ids, self._ids):
            return slice(None)
        before, behind = (np.searchsorted(self._ids, ids, side) for side in ("left", "right"))
        new = before == behind
        if not new.any():
            return before
        gaps = before[new]
        self._ids = np.insert(self._ids, gaps, ids[new])
        self._voters, self._plain = _with_zeros(self._voters, gaps), _with_zeros(self._plain, gaps)
        if self._weighted is not None:
            weighted, weights = self._weighted
            self._weighted = _with_zeros(weighted, gaps), _with_zeros(weights, gaps)
        return np.searchsorted(self._ids, ids)


def _with_zeros(table: Array, before: Ids) -> Array:
    """The table with a row of zeros before each of these."""
    return np.insert(table, before, 0.0, axis=0)

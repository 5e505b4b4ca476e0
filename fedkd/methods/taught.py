"""Knowledge on the proxy set by sample: a batch of it holds each sample once, however many rows the sample has."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar, final

import numpy as np

from fedkd.rows import Rows
from fedkd.types import Array, Ids, Mask

_T = TypeVar("_T")
_MADE: weakref.WeakKeyDictionary[Rows, dict[Hashable, Any]] = weakref.WeakKeyDictionary()


def once(rows: Rows, key: Hashable, make: Callable[[], _T]) -> _T:
    """What `make` makes of rows that many clients of a worker learn from: made for the first, kept while the rows are.

    It must not hold the rows themselves, which would then never be let go of.
    """
    made = _MADE.setdefault(rows, {})
    if key not in made:
        made[key] = make()
    found: _T = made[key]
    return found


@dataclass(frozen=True, eq=False, kw_only=True)
class TaughtBatch:
    """What is known about a few samples, row by row.

    Attributes:
        sample_ids: (b,) the samples, in the order of the batch.
        sample: (m,) which of them each row is of, 0..b-1.
        position: (m,) where in its sample each row lies, 0..R-1.
        values: (m, c), with `weight` (m,) or (m, c) and `support` (m, k) where the rows have them.
    """

    sample_ids: Ids
    sample: Ids
    position: Ids
    values: Array
    weight: Array | None
    support: Array | None
    rows_per_sample: int

    def dense(self) -> tuple[Array, Mask]:
        """Values (b, R, c), 0 where nothing is known, and the mask (b, R) of what is."""
        shape = (len(self.sample_ids), self.rows_per_sample)
        values = np.zeros((*shape, self.values.shape[1]), self.values.dtype)
        known = np.zeros(shape, bool)
        values[self.sample, self.position] = self.values
        known[self.sample, self.position] = True
        return values, known


@final
class Taught:
    """Rows in proxy space, grouped by sample. Its length is the number of samples that something is known about."""

    def __init__(self, rows: Rows, rows_per_sample: int) -> None:
        self.rows = rows
        self.rows_per_sample = rows_per_sample
        # Ids ascend, so the rows of a sample lie side by side.
        self.sample_ids, self._starts, self._counts = np.unique(
            rows.ids // rows_per_sample, return_index=True, return_counts=True
        )

    def __len__(self) -> int:
        return len(self.sample_ids)

    def batch(self, index: Ids) -> TaughtBatch:
        """What is known about the samples at `index` (b,), positions in range(len(self))."""
        counts = self._counts[index]
        sample = np.repeat(np.arange(len(index)), counts)
        within = np.arange(len(sample)) - np.repeat(np.cumsum(counts) - counts, counts)
        at = self._starts[index][sample] + within
        return TaughtBatch(
            sample_ids=self.sample_ids[index],
            sample=sample,
            position=self.rows.ids[at] % self.rows_per_sample,
            values=self.rows.values[at],
            weight=None if self.rows.weight is None else self.rows.weight[at],
            support=None if self.rows.support is None else self.rows.support[at],
            rows_per_sample=self.rows_per_sample,
        )

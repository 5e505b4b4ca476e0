"""A server's memory of rows: those that nobody speaks for now keep what was last said about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedkd.rows import Rows

AGE = "age"  # column: rounds since somebody last spoke for the row


def remembered(
    streams: Mapping[tuple[str, str, str], Rows], memory: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, str, str], Rows]:
    """The rows of this round, age 0, and those of the memory that nobody spoke for now, one round older.

    Args:
        streams: what was combined in this round.
        memory: trees of the rows that were known before, with their age.
    """
    fresh = {
        key: replace(rows, columns={**rows.columns, AGE: np.zeros(len(rows), np.float32)})
        for key, rows in streams.items()
    }
    for tree in memory:
        old = Rows(**tree)
        old = replace(old, columns={**old.columns, AGE: old.columns[AGE] + np.float32(1)})
        key = old.stream
        fresh[key] = joined(fresh[key], old.where(~np.isin(old.ids, fresh[key].ids))) if key in fresh else old
    return fresh


def joined(first: Rows, second: Rows) -> Rows:
    """The rows of both, whose ids differ, ascending by id, with the columns that both have. Weights are (n, c)."""
    ids = np.concatenate([first.ids, second.ids])
    order = np.argsort(ids)
    weight = None
    if first.weight is not None or second.weight is not None:
        ones = (np.ones_like(rows.values) if rows.weight is None else rows.weight for rows in (first, second))
        weight = np.concatenate(tuple(ones))[order]
    support = None
    if first.support is not None and second.support is not None:
        support = np.concatenate([first.support, second.support])[order]
    return replace(
        first,
        ids=ids[order],
        values=np.concatenate([first.values, second.values])[order],
        weight=weight,
        columns={
            name: np.concatenate([column, second.columns[name]])[order]
            for name, column in first.columns.items()
            if name in second.columns
        },
        support=support,
    )

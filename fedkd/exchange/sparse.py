"""Combination of rows that name the columns they speak for: the largest k of each and a tail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from fedkd.exchange.voices import Combined, as_matrix
from fedkd.functional.aggregation import LOG_FLOOR
from fedkd.rows import Rows
from fedkd.types import Array


def combine_supported(
    spoken: Sequence[Rows], reduce: Callable[[Sequence[Rows]], Combined], *, num_columns: int | None
) -> tuple[Rows, Array]:
    """The combined rows, without columns, and how many clients spoke for each (n,).

    As if each client's tail lay evenly on the columns that it did not name and the rows were combined at full width,
    normalised and cut down to the k largest again (of equal values the lowest column stays); but only the columns that
    somebody named, and one for all others of a row, are looked at.

    Args:
        spoken: non-empty rows of one stream with supports of one size, k < num_columns.
        reduce: the rule for log-probabilities.
        num_columns: of the rows that the supports were taken from.
    """
    if num_columns is None:
        raise ValueError("rows with a support are combined over the columns that they come from: give num_columns")
    k = spoken[0].values.shape[1] - 1
    ids = np.unique(np.concatenate([rows.ids for rows in spoken]))
    at = [np.searchsorted(ids, rows.ids) for rows in spoken]
    supports = [rows.support for rows in spoken if rows.support is not None]
    keys = [own[:, None] * num_columns + support for own, support in zip(at, supports, strict=True)]
    every = np.unique(np.concatenate([own.reshape(-1) for own in keys]))  # named columns, row by row
    row = every // num_columns
    named = [
        _named(*each, every=every, row=row, num_columns=num_columns) for each in zip(spoken, at, keys, strict=True)
    ]
    entries = reduce(named).values[:, 0]
    tails = [_alone(rows, own, _tail(rows, num_columns), slice(None)) for rows, own in zip(spoken, at, strict=True)]
    others = reduce(tails)

    starts, count = np.searchsorted(row, np.arange(len(ids))), np.bincount(row, minlength=len(ids))
    with np.errstate(divide="ignore"):
        rest = others.values[:, 0] + np.log(num_columns - count)  # minus infinity where all columns are named
    top = np.maximum(np.maximum.reduceat(entries, starts), rest)
    total = top + np.log(np.add.reduceat(np.exp(entries - top[row]), starts) + np.exp(rest - top))
    entries, rest = entries - total[row], rest - total

    order = np.lexsort((every, -entries, row))
    is_kept = np.arange(len(every)) - starts[row] < k  # `order` keeps the rows together
    chosen = np.sort(order[is_kept].reshape(len(ids), k), axis=1)
    left = np.exp(entries)
    left[chosen] = 0
    with np.errstate(divide="ignore"):
        tail = np.log(np.add.reduceat(left, starts) + np.exp(rest))
    values = np.maximum(np.concatenate([entries[chosen], tail[:, None]], axis=1), LOG_FLOOR).astype(np.float32)
    support = (every[chosen] % num_columns).astype(np.int32)
    answer = replace(spoken[0], ids=ids, values=values, support=support, weight=None, columns={})
    return answer, others.voters


def _named(rows: Rows, at: Array, keys: Array, *, every: Array, row: Array, num_columns: int) -> Rows:
    """What one client says about the named columns of its rows: one row for each of them."""
    where = np.full(int(row[-1]) + 1, -1)
    where[at] = np.arange(len(rows))
    own = np.flatnonzero(where[row] >= 0)
    source = where[row[own]]
    values = _tail(rows, num_columns)[source]
    values[np.searchsorted(own, np.searchsorted(every, keys))] = rows.values[:, :-1]
    return _alone(rows, own, values, source)


def _tail(rows: Rows, num_columns: int) -> Array:
    """The log-probability (n,) of each column that the client did not name."""
    tail: Array = rows.values[:, -1].astype(np.float64) - np.log(num_columns - rows.values.shape[1] + 1)
    return tail


def _alone(rows: Rows, ids: Array, values: Array, source: Array | slice) -> Rows:
    """Values (n,) as rows of one column, with the weights of the rows `source` that they come from."""
    weight = None if rows.weight is None else as_matrix(rows.weight, len(rows)).mean(axis=1)[source]
    return Rows(space=rows.space, kind="score", ids=ids, values=values[:, None], weight=weight)

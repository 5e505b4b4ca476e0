"""Rules that a lying client moves by a bounded amount, and the rule that takes one client's word."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from fedkd.exchange.voices import Combined, as_matrix, heard_weight
from fedkd.rows import Rows
from fedkd.types import Array, Ids, Mask

TRIM = 0.25  # share of the votes that `trimmed` drops at each end
_BLOCK = 2**22  # entries that are stacked at a time


def median(spoken: Sequence[Rows]) -> Combined:
    """The median of each entry; of an even number of votes the mean of the two in the middle."""
    return _ordered(spoken, lambda votes: (votes - 1) // 2)


def trimmed(spoken: Sequence[Rows]) -> Combined:
    """The mean of each entry without a quarter of its votes at each end, rounded down, but one where three voted."""
    return _ordered(spoken, lambda votes: np.where(votes < 3, 0, np.maximum((TRIM * votes).astype(np.int64), 1)))


def best(spoken: Sequence[Rows]) -> Combined:
    """The row of the client with the largest weight, the first of equals: with clients ordered by id the lowest."""
    first = spoken[0]
    ids = np.unique(np.concatenate([rows.ids for rows in spoken]))
    values = np.zeros((len(ids), first.values.shape[1]))
    heard = np.ones(values.shape, np.bool_)
    loudest, voters = np.full(len(ids), -1.0), np.zeros(len(ids))
    for rows in spoken:
        at = np.searchsorted(ids, rows.ids)
        voters[at] += 1
        weight = as_matrix(rows.weight, len(rows))
        loudness = weight.mean(axis=1)
        wins = loudness > loudest[at]
        loudest[at[wins]] = loudness[wins]
        values[at[wins]] = rows.values[wins]
        heard[at[wins]] = weight[wins] > 0
    return Combined(ids, values, voters, heard_weight(heard) if first.kind == "logits" else None)


def _ordered(spoken: Sequence[Rows], drop: Callable[[Array], Array]) -> Combined:
    """The mean of the votes on each entry without the `drop(votes)` least and as many of the largest.

    A client votes where its weight is not zero; where nobody's is, all who spoke for the row do. Beyond that weights do
    not count. Votes are summed in the order of their size: the order of clients is irrelevant to the last bit.
    """
    ids = np.unique(np.concatenate([rows.ids for rows in spoken]))
    values = np.zeros((len(ids), spoken[0].values.shape[1]))
    heard, voters = np.ones(values.shape, np.bool_), np.zeros(len(ids))
    for start, stop in _blocks(len(ids), len(spoken) * values.shape[1]):
        stack, said, owned = _stack(spoken, ids[start:stop])
        voters[start:stop] = said.sum(axis=0)
        heard[start:stop] = owned.any(axis=0)
        everyone = np.broadcast_to(said[:, :, None], owned.shape)
        values[start:stop] = _middle(stack, np.where(heard[start:stop], owned, everyone), drop)
        if spoken[0].kind == "probs":
            total = values[start:stop].sum(axis=1, keepdims=True)
            plain = _middle(stack, everyone, np.zeros_like)  # where the medians are all zero
            values[start:stop] = np.divide(values[start:stop], total, out=plain, where=total > 0)
    return Combined(ids, values, voters, heard_weight(heard) if spoken[0].kind == "logits" else None)


def _middle(stack: Array, votes: Mask, drop: Callable[[Array], Array]) -> Array:
    """The mean (n, c) over the clients (m, n, c) that vote, without `drop(count)` votes at each end."""
    ordered = np.sort(np.where(votes, stack, np.inf), axis=0)
    count = votes.sum(axis=0)
    low = drop(count)
    place = np.arange(len(stack))[:, None, None]
    kept = (place >= low) & (place < count - low)
    mean: Array = np.where(kept, ordered, 0).sum(axis=0) / kept.sum(axis=0)
    return mean


def _stack(spoken: Sequence[Rows], ids: Ids) -> tuple[Array, Mask, Mask]:
    """Values (m, n, c) at `ids`, who spoke (m, n), and whose weight is not zero (m, n, c)."""
    shape = (len(spoken), len(ids), spoken[0].values.shape[1])
    stack, said, owned = np.zeros(shape), np.zeros(shape[:2], np.bool_), np.zeros(shape, np.bool_)
    for client, rows in enumerate(spoken):
        first, last = np.searchsorted(rows.ids, [ids[0], ids[-1] + 1])
        at = np.searchsorted(ids, rows.ids[first:last])
        stack[client, at], said[client, at] = rows.values[first:last], True
        owned[client, at] = as_matrix(rows.weight, len(rows))[first:last] > 0
    return stack, said, owned


def _blocks(size: int, entries: int) -> Iterator[tuple[int, int]]:
    """Bounds of the blocks of rows that are stacked at a time, of `entries` numbers a row."""
    step = max(1, _BLOCK // max(entries, 1))
    for start in range(0, size, step):
        yield start, min(start + step, size)

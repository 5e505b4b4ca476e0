"""Row-wise combination: per id, over exactly the clients that spoke for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from fedkd.rows import Rows, Share
from fedkd.types import Array

VOTERS = "voters"  # column: how many clients spoke for the row


def masked_mean(spoken: Sequence[Rows]) -> Rows:
    """The weighted mean of each row over the clients that sent it, ascending by id, with the column `voters`.

    t(i) = sum_c w_c(i) v_c(i) / sum_c w_c(i). An id that nobody sent is absent, never zero. Where all weights of an
    entry are zero, its voters' plain mean stands. Class-wise weighted probabilities are scaled back to sum to one.
    Sums run in float64 in the order given: pass clients ordered by id, and the result depends on nothing else.

    Args:
        spoken: rows of one stream (space, kind, variant) and width, one entry per client; at least one.
    """
    first = spoken[0]
    ids = np.unique(np.concatenate([rows.ids for rows in spoken]))
    shape = (len(ids), first.values.shape[1])
    is_weighted = any(rows.weight is not None for rows in spoken)
    weighted, plain = np.zeros(shape), np.zeros(shape)
    weights, voters = np.zeros(shape), np.zeros((len(ids), 1))
    for rows in spoken:
        at = np.searchsorted(ids, rows.ids)  # ids of one client are unique, so += meets each row once
        plain[at] += rows.values
        voters[at] += 1
        if is_weighted:
            weight = _as_matrix(rows.weight, len(rows))
            weighted[at] += weight * rows.values.astype(np.float64)
            weights[at] += weight
    mean = plain / voters
    if is_weighted:
        mean = np.divide(weighted, weights, out=mean, where=weights > 0)
        if first.kind == "probs":
            total = mean.sum(axis=1, keepdims=True)
            # Voices that are heard only where they say nothing leave a row of zeros: again the plain mean stands.
            mean = np.divide(mean, total, out=plain / voters, where=total > 0)
    space, kind, variant = first.space, first.kind, first.variant
    columns = {VOTERS: voters[:, 0].astype(np.float32)}
    return Rows(space=space, kind=kind, variant=variant, ids=ids, values=mean.astype(np.float32), columns=columns)


def by_stream(shares: Iterable[Share]) -> dict[tuple[str, str, str], list[Rows]]:
    """The non-empty rows of all shares, grouped by what can be combined, in the order of the shares."""
    streams: dict[tuple[str, str, str], list[Rows]] = {}
    for share in shares:
        for rows in share.rows:
            if len(rows):
                streams.setdefault(rows.stream, []).append(rows)
    return streams


def _as_matrix(weight: Array | None, n: int) -> Array:
    """Weights as (n, 1) or (n, c)."""
    if weight is None:
        return np.ones((n, 1))
    return weight[:, None] if weight.ndim == 1 else weight

"""Row-wise combination: per id, over exactly the clients that spoke for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from fedkd.exchange.robust import best, median, trimmed
from fedkd.exchange.sparse import combine_supported
from fedkd.exchange.voices import Combined, as_matrix, heard_weight
from fedkd.functional.aggregation import log_normalise
from fedkd.rows import Rows, Share

VOTERS = "voters"  # column: how many clients spoke for the row


def masked_mean(spoken: Sequence[Rows]) -> Rows:
    """`combine` by the weighted mean: t(i) = sum_c w_c(i) v_c(i) / sum_c w_c(i)."""
    return combine(spoken)


def combine(spoken: Sequence[Rows], how: str = "mean", *, num_columns: int | None = None) -> Rows:
    """Each row over the clients that sent it, ascending by id, with the column `voters`.

    An id that nobody sent is absent, never zero. `how`:

    * `mean`: weighted. Where all weights of an entry are zero, its voters' plain mean stands.
    * `median`, `trimmed` (see `fedkd.exchange.robust`): of each entry, over the clients whose weight there is not zero.
    * `best`: the row of the client with the largest weight (class-wise weights: their mean), the first of equals.

    Probabilities are scaled back to sum to one where that is not so by itself. Log-probabilities are combined as they
    are, then normalised, and are at least `LOG_FLOOR`. Logits of a class that nobody owns (all class-wise weights are
    zero, while other classes of the row are owned) have the plain mean as their value, which means nothing, and a
    weight (n, c) of 0 in the answer, 1 elsewhere: whoever learns from the row drops the column
    (`fedkd.functional.teachers`). Columns that all rows have are combined alike, weighed as the rows are. Rows with a
    support: see `fedkd.exchange.sparse`.

    Sums run in float64 in the order given: pass clients ordered by id, and the result depends on nothing else.

    Args:
        spoken: rows of one stream (space, kind, variant) and width, one entry per client; at least one.
        num_columns: of the rows that a support was taken from.
    """
    voices = [rows for rows in spoken if len(rows)]
    widths = sorted({rows.values.shape[1] for rows in voices})
    if len(widths) > 1:
        raise ValueError(f"rows of {spoken[0].stream} are {widths} columns wide: they cannot be combined")
    reduce = HOW[how]
    if voices and voices[0].support is not None:
        answer, voters = combine_supported(voices, reduce, num_columns=num_columns)
    else:
        made = reduce(voices or spoken)
        values = log_normalise(made.values) if spoken[0].kind == "log_probs" and voices else made.values
        answer = replace(
            spoken[0], ids=made.ids, values=values.astype(np.float32), weight=made.weight, columns={}, support=None
        )
        voters = made.voters
    names = sorted(set.intersection(*(set(rows.columns) for rows in voices))) if voices else []
    columns = {}
    if names:
        table = reduce([_table(rows, names) for rows in voices]).values.astype(np.float32)
        columns = {name: table[:, at] for at, name in enumerate(names)}
    return replace(answer, columns=columns | {VOTERS: voters.astype(np.float32)})


def by_stream(shares: Iterable[Share]) -> dict[tuple[str, str, str], list[Rows]]:
    """The non-empty rows of all shares, grouped by what can be combined, in the order of the shares."""
    streams: dict[tuple[str, str, str], list[Rows]] = {}
    for share in shares:
        for rows in share.rows:
            if len(rows):
                streams.setdefault(rows.stream, []).append(rows)
    return streams


def merge_variants(share: Share, *, num_columns: int | None = None) -> Share:
    """The share with one main variant for each space and kind: the mean over the client's own variants, id by id.

    A client has one voice on a row, however many variants it speaks with; its weight is the mean of theirs.
    """
    groups: dict[tuple[str, str], list[Rows]] = {}
    for rows in share.rows:
        if len(rows):
            groups.setdefault((rows.space, rows.kind), []).append(replace(rows, variant=""))
    merged = []
    for own in groups.values():
        if len(own) == 1:
            merged.append(own[0])
            continue
        mean = combine(own, num_columns=num_columns)
        columns = {name: column for name, column in mean.columns.items() if name != VOTERS}
        merged.append(replace(mean, weight=_mean_weight(own), columns=columns))
    return replace(share, rows=tuple(merged))


def _mean(spoken: Sequence[Rows]) -> Combined:
    """The weighted mean of each entry."""
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
            weight = as_matrix(rows.weight, len(rows))
            weighted[at] += weight * rows.values.astype(np.float64)
            weights[at] += weight
    mean = plain / voters
    if is_weighted:
        mean = np.divide(weighted, weights, out=mean, where=weights > 0)
        if first.kind == "probs":
            total = mean.sum(axis=1, keepdims=True)
            # Voices that are heard only where they say nothing leave a row of zeros: again the plain mean stands.
            mean = np.divide(mean, total, out=plain / voters, where=total > 0)
    heard = heard_weight(weights > 0) if is_weighted and first.kind == "logits" else None
    return Combined(ids, mean, voters[:, 0], heard)


HOW: Mapping[str, Callable[[Sequence[Rows]], Combined]] = {
    "mean": _mean,
    "median": median,
    "trimmed": trimmed,
    "best": best,
}


def _table(rows: Rows, names: Sequence[str]) -> Rows:
    """The columns as values of rows of their own, with one weight a row."""
    values = np.stack([rows.columns[name] for name in names], axis=1)
    weight = None if rows.weight is None else as_matrix(rows.weight, len(rows)).mean(axis=1)
    return Rows(space=rows.space, kind="score", ids=rows.ids, values=values, weight=weight)


def _mean_weight(own: Sequence[Rows]) -> np.ndarray | None:
    """The mean weight of each row over the variants that speak for it, (n,) or (n, c); None where none has one."""
    if all(rows.weight is None for rows in own):
        return None
    width = max(as_matrix(rows.weight, len(rows)).shape[1] for rows in own)
    tables = [
        Rows(
            space=rows.space,
            kind="score",
            ids=rows.ids,
            values=np.broadcast_to(as_matrix(rows.weight, len(rows)), (len(rows), width)),
        )
        for rows in own
    ]
    weight = _mean(tables).values.astype(np.float32)
    return weight[:, 0] if width == 1 else weight

"""Row-wise combination: per id, over exactly the clients that spoke for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import final

import numpy as np

from fedkd.exchange.robust import best, median, trimmed
from fedkd.exchange.running_mean import RunningMean
from fedkd.exchange.sparse import combine_supported
from fedkd.exchange.voices import Combined, as_matrix
from fedkd.functional.aggregation import log_normalise
from fedkd.rows import Rows, Share

VOTERS = "voters"  # column: how many clients spoke for the row


def masked_mean(spoken: Iterable[Rows]) -> Rows:
    """`combine` by the weighted mean: t(i) = sum_c w_c(i) v_c(i) / sum_c w_c(i)."""
    return combine(spoken)


def combine(spoken: Iterable[Rows], how: str = "mean", *, num_columns: int | None = None) -> Rows:
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
    combination = Combination(how, num_columns=num_columns)
    for rows in spoken:
        combination.add(rows)
    return combination.result()


@final
class Combination:
    """`combine` of rows that come one client after another.

    By the mean nothing is kept of them but sums, unless they have a support; the other rules keep them all.
    """

    def __init__(self, how: str = "mean", *, num_columns: int | None = None) -> None:
        self._how = how
        self._num_columns = num_columns
        self._stream: Rows | None = None  # no rows, but of the stream
        self._voices: RunningMean | _Kept | None = None  # from the first client on that says anything
        self._supported: list[Rows] = []  # rows with a support, which are combined at the end
        self._columns: dict[str, RunningMean | _Kept] = {}  # those that all clients have

    def add(self, rows: Rows) -> None:
        """What one more client says; ValueError where it is of another width."""
        if self._stream is None or self._voices is None:
            self._stream = rows.where(np.zeros(len(rows), np.bool_))
        if not len(rows):
            return
        widths = sorted({self._stream.values.shape[1], rows.values.shape[1]})
        if len(widths) > 1:
            raise ValueError(f"rows of {rows.stream} are {widths} columns wide: they cannot be combined")
        if self._voices is None:
            self._voices = self._rule(rows)
            self._columns = {name: self._rule(_column(rows, name)) for name in sorted(rows.columns)}
        if rows.support is None:
            self._voices.add(rows)
        else:
            self._supported.append(rows)
        self._columns = {name: voices for name, voices in self._columns.items() if name in rows.columns}
        for name, voices in self._columns.items():
            voices.add(_column(rows, name))

    def result(self) -> Rows:
        """The rows of all clients as one; ValueError before anybody has spoken, be it to say nothing."""
        if self._stream is None:
            raise ValueError("nobody has spoken: there is nothing to combine")
        if self._voices is None:
            return replace(self._stream, weight=None, support=None, columns={VOTERS: np.zeros(0, np.float32)})
        if self._supported:
            answer, voters = combine_supported(self._supported, HOW[self._how], num_columns=self._num_columns)
        else:
            made = self._voices.result()
            values = log_normalise(made.values) if self._stream.kind == "log_probs" else made.values
            answer = replace(
                self._stream,
                ids=made.ids,
                values=values.astype(np.float32),
                weight=made.weight,
                columns={},
                support=None,
            )
            voters = made.voters
        columns = {name: voices.result().values[:, 0].astype(np.float32) for name, voices in self._columns.items()}
        return replace(answer, columns=columns | {VOTERS: voters.astype(np.float32)})

    def _rule(self, rows: Rows) -> RunningMean | _Kept:
        """What takes rows such as these."""
        return RunningMean(rows.kind, rows.values.shape[1]) if self._how == "mean" else _Kept(HOW[self._how])


@final
class _Kept:
    """A rule that needs all voices at once."""

    def __init__(self, reduce: Callable[[Sequence[Rows]], Combined]) -> None:
        self._reduce = reduce
        self._spoken: list[Rows] = []

    def add(self, rows: Rows) -> None:
        self._spoken.append(rows)

    def result(self) -> Combined:
        return self._reduce(self._spoken)


def combine_streams(
    shares: Iterable[Share], how: str = "mean", *, num_columns: int | None = None
) -> dict[tuple[str, str, str], Rows]:
    """Each stream of the shares combined; by the mean, shares are let go one after another."""
    streams: dict[tuple[str, str, str], Combination] = {}
    for share in shares:
        for rows in share.rows:
            if len(rows):
                streams.setdefault(rows.stream, Combination(how, num_columns=num_columns)).add(rows)
    return {stream: combination.result() for stream, combination in streams.items()}


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
    running = RunningMean(spoken[0].kind, spoken[0].values.shape[1])
    for rows in spoken:
        running.add(rows)
    return running.result()


HOW: Mapping[str, Callable[[Sequence[Rows]], Combined]] = {
    "mean": _mean,
    "median": median,
    "trimmed": trimmed,
    "best": best,
}


def _column(rows: Rows, name: str) -> Rows:
    """A column as values of rows of their own, with one weight a row."""
    weight = None if rows.weight is None else as_matrix(rows.weight, len(rows)).mean(axis=1)
    return Rows(space=rows.space, kind="score", ids=rows.ids, values=rows.columns[name][:, None], weight=weight)


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

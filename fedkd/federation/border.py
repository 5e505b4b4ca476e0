"""The border: whether a share is what was asked for, before anything uses it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedkd.errors import BadReplyError
from fedkd.exchange.extras import record_of
from fedkd.rows import SHARE_SCHEMA, Rows, Share, Stream, stream_of
from fedkd.types import Ids, Mask

VALUE_LIMIT = 1e4  # no honest logit, feature or noise is larger
LOG_SLACK = 1e-2  # what rounding may add to a log-probability of 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Expected:
    """What a share of this round must look like.

    Attributes:
        streams: what the trainer shares.
        asked: (p * rows_per_sample,) rows that may be answered in proxy space; None: there is no proxy.
        num_classes: of class numbers, of supports and of the table of an evaluation.
        extras: kinds of the record that a share may carry.
        max_variants: of a stream with many variants.
        max_free_rows: rows outside proxy space, all together; in it a client has at most one for each that was asked.
        max_text_bytes: of the record as compact JSON and the names of variants and metrics, all together.
    """

    round_id: int
    streams: tuple[Stream, ...]
    asked: Mask | None
    num_classes: int
    rows_per_sample: int = 1
    extras: frozenset[str] = frozenset()
    max_variants: int = 8
    max_free_rows: int = 1_000_000
    max_text_bytes: int = 2**22
    tables: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # of counts that an evaluation may carry


def check_share(share: Share, client_id: int, expected: Expected) -> Share:
    """The share itself; BadReplyError with the reason where it is malformed.

    Weights lie within 0 and 1: a client may lower its voice, never raise it.
    """

    def bad(reason: str) -> BadReplyError:
        return BadReplyError(reason, client_id=client_id)

    if share.schema != SHARE_SCHEMA:
        raise bad(f"share has schema {share.schema}, expected {SHARE_SCHEMA}")
    if share.client_id != client_id or share.round_id != expected.round_id:
        raise bad(
            f"share says client {share.client_id}, round {share.round_id}; the reply was due from client {client_id} "
            f"for round {expected.round_id}"
        )
    if len({rows.stream for rows in share.rows}) != len(share.rows):
        raise bad(f"share has {len(share.rows)} sets of rows, of which some have one space, kind and variant")
    text_bytes = sum(len(name.encode()) for name in (*share.metrics, *(rows.variant for rows in share.rows)))
    text_bytes += 0 if share.extra is None else share.extra.nbytes
    if text_bytes > expected.max_text_bytes:
        raise bad(f"share holds {text_bytes} bytes of text, more than {expected.max_text_bytes}")
    free = sum(len(rows) for rows in share.rows if rows.space != "proxy")
    if free > expected.max_free_rows:
        raise bad(f"share holds {free} rows outside proxy space, more than {expected.max_free_rows}")
    sets: Counter[Stream] = Counter()
    for rows in share.rows:
        stream = stream_of(rows, expected.streams)
        if stream is None:
            reason = f"expected {' or '.join(map(_named, expected.streams)) or 'no rows'}"
        else:
            sets[stream] += 1
            reason = _fault(rows, stream, expected)
            if sets[stream] > expected.max_variants:
                reason = f"more than {expected.max_variants} variants"
        if reason:
            raise bad(f"rows {rows.space}/{rows.kind}/{rows.variant or 'main'}: {reason}")
    if share.extra is not None:
        try:
            record_of(share.extra, kinds=expected.extras)
        except BadReplyError as error:
            raise bad(error.reason) from error
    return share


def _named(stream: Stream) -> str:
    return f"{stream.space}/{stream.kind}/{stream.variant or ('*' if stream.many_variants else 'main')}"


def _fault(rows: Rows, stream: Stream, expected: Expected) -> str:
    """Why the rows are not acceptable, or an empty text."""
    if not len(rows):
        return ""
    reason = _fault_of_values(rows, stream, expected.num_classes) or _fault_of_ids(rows.ids, stream, expected)
    return reason or _fault_of_companions(rows, stream, expected.num_classes)


def _fault_of_values(rows: Rows, stream: Stream, num_classes: int) -> str:
    values = rows.values
    if rows.kind == "hard":
        is_whole = values.shape[1] == 1 and np.issubdtype(values.dtype, np.integer)
        if not is_whole or not ((values >= 0) & (values < num_classes)).all():
            return f"hard labels are no (n, 1) class numbers from 0 to {num_classes - 1}"
    elif values.shape[1] != stream.width:
        return (
            f"values have shape {values.shape}, expected (n, {stream.width}); the client's model has "
            f"{values.shape[1]} outputs: set model.num_outputs or its head to match"
        )
    if not values.size:
        return ""
    least, most = float(values.min()), float(values.max())  # no copies of the values, as masks would be; NaN stays NaN
    if not (math.isfinite(least) and math.isfinite(most)):
        return f"{int((~np.isfinite(values)).any(axis=1).sum())} rows hold NaN or infinite values"
    if rows.kind == "probs" and (least < -1e-3 or (np.abs(values.sum(axis=1) - 1) > 1e-2).any()):
        return "probabilities are negative or do not sum to one"
    if rows.kind == "log_probs" and most > LOG_SLACK:
        return f"log-probabilities reach {most:.3g}, more than 0"
    if max(-least, most) > VALUE_LIMIT:
        return f"values reach {max(-least, most):.3g}, more than {VALUE_LIMIT:g}"
    return ""


def _fault_of_ids(ids: Ids, stream: Stream, expected: Expected) -> str:
    if (ids[1:] <= ids[:-1]).any():  # a difference of far ids could wrap around
        return "ids are not unique and ascending"
    asked, limit = expected.asked, stream.limit
    if stream.space == "proxy":
        if asked is None:
            return "there is no proxy set"
        limit = len(asked)
    if ids[0] < 0 or (limit is not None and ids[-1] >= limit):
        return f"ids run from {ids[0]} to {ids[-1]}, expected 0 to {'any' if limit is None else limit - 1}"
    if stream.space != "proxy" or asked is None:
        return ""
    is_asked = asked[ids]
    if stream.per_sample:
        per_sample = expected.rows_per_sample
        if (ids % per_sample).any():
            return f"ids of one row a sample are no multiples of {per_sample}"
        is_asked = np.logical_or.reduce(asked.reshape(-1, per_sample)[ids // per_sample], axis=1)
    return "" if is_asked.all() else "ids answer rows that were not asked for"


def _fault_of_companions(rows: Rows, stream: Stream, num_classes: int) -> str:
    weight, support = rows.weight, rows.support
    if (support is None) == stream.has_support:
        return "rows lack the support that is due" if support is None else "rows have a support that nobody expects"
    if support is not None:
        is_inside = ((support >= 0) & (support < num_classes)).all()
        if not is_inside or (support[:, 1:] <= support[:, :-1]).any():
            return f"supports are no ascending columns from 0 to {num_classes - 1}"
        if weight is not None and weight.ndim == 2:
            return "weights are class-wise, of columns that every row names anew"
    if weight is not None and not ((weight >= 0) & (weight <= 1)).all():
        return "weights are not within 0 and 1"
    for name, column in rows.columns.items():
        if name not in stream.columns:
            return f"column {name!r:.60} was not asked for"
        if not np.isfinite(column).all():
            return f"column {name!r} holds NaN or infinite values"
    return ""

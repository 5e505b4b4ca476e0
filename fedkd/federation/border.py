"""The border: whether a share is what was asked for, before anything uses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedkd.errors import BadReplyError
from fedkd.rows import SHARE_SCHEMA, Rows, Share
from fedkd.types import Mask

VALUE_LIMIT = 1e4  # no honest logit, feature or noise is larger


@dataclass(frozen=True, eq=False, kw_only=True)
class Expected:
    """What a share of this round must look like."""

    round_id: int
    space: str
    kinds: frozenset[str]
    num_columns: int
    asked: Mask | None  # (p * rows_per_sample,) rows that may be answered in proxy space; None: there is no proxy
    num_classes: int
    max_variants: int = 8
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
    if len({rows.variant for rows in share.rows}) != len(share.rows) or len(share.rows) > expected.max_variants:
        raise bad(f"share has {len(share.rows)} sets of rows with variants that repeat, or too many")
    for rows in share.rows:
        reason = _fault(rows, expected)
        if reason:
            raise bad(f"rows {rows.space}/{rows.kind}/{rows.variant or 'main'}: {reason}")
    return share


def _fault(rows: Rows, expected: Expected) -> str:
    """Why the rows are not acceptable, or an empty text."""
    ids, values, weight = rows.ids, rows.values, rows.weight
    if rows.space != expected.space or rows.kind not in expected.kinds:
        return f"expected space {expected.space} and kind {' or '.join(sorted(expected.kinds))}"
    if not len(ids):
        return ""
    if rows.kind == "hard":
        is_whole = values.shape[1] == 1 and np.issubdtype(values.dtype, np.integer)
        if not is_whole or not ((values >= 0) & (values < expected.num_classes)).all():
            return f"hard labels are no (n, 1) class numbers from 0 to {expected.num_classes - 1}"
    elif values.shape[1] != expected.num_columns:
        return (
            f"values have shape {values.shape}, expected (n, {expected.num_columns}); the client's model has "
            f"{values.shape[1]} outputs: set model.num_outputs or its head to match"
        )
    if (ids[1:] <= ids[:-1]).any():  # a difference of far ids could wrap around
        return "ids are not unique and ascending"
    limit = expected.num_classes if expected.asked is None else len(expected.asked)
    if ids[0] < 0 or ids[-1] >= limit:
        return f"ids run from {ids[0]} to {ids[-1]}, expected 0 to {limit - 1}"
    if expected.asked is not None and not expected.asked[ids].all():
        return "ids answer rows that were not asked for"
    if not np.isfinite(values).all():
        return f"{int((~np.isfinite(values)).any(axis=1).sum())} rows hold NaN or infinite values"
    if rows.kind == "probs" and ((values < -1e-3).any() or (np.abs(values.sum(axis=1) - 1) > 1e-2).any()):
        return "probabilities are negative or do not sum to one"
    if np.abs(values).max() > VALUE_LIMIT:
        return f"values reach {np.abs(values).max():.3g}, more than {VALUE_LIMIT:g}"
    if weight is not None and not ((weight >= 0) & (weight <= 1)).all():
        return "weights are not within 0 and 1"
    for name, column in rows.columns.items():
        if not np.isfinite(column).all():
            return f"column {name!r} holds NaN or infinite values"
    return ""

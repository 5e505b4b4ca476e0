"""What rows of the server teach: probabilities, whatever kind the rows are of."""

from __future__ import annotations

import numpy as np

from fedkd.functional.aggregation import softmax
from fedkd.rows import Rows
from fedkd.types import Array, Mask


def teacher_probs(rows: Rows, temperature: float = 1.0) -> Array:
    """Probabilities (n, c) float32 of the rows at `temperature`.

    softmax(values / temperature) of logits and of log-probabilities; probabilities are taken as they are, softened
    already or not. Columns of logits that nobody owned (see `heard_columns`) get 0, the others sum to one. Rows with a
    support give its k columns and the tail as one more.

    Raises:
        ValueError: rows of another kind are no distribution.
    """
    if rows.kind == "probs":
        return rows.values
    if rows.kind not in {"logits", "log_probs"}:
        raise ValueError(f"rows of kind {rows.kind!r} are no distribution; expected logits, log_probs or probs")
    heard = heard_columns(rows)
    return softmax(rows.values if heard is None else np.where(heard, rows.values, -np.inf), temperature=temperature)


def heard_columns(rows: Rows) -> Mask | None:
    """Mask (n, c) of the columns that somebody owned, or None: all of them.

    A class-wise weight of 0 says that nobody owned the column; a row without any other column has them all.
    """
    if rows.weight is None or rows.weight.ndim == 1:
        return None
    heard: Mask = rows.weight > 0
    return heard | ~heard.any(axis=1, keepdims=True)

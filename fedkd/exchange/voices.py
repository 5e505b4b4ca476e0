"""What the rules of combination share: how weights are read, and what they answer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedkd.types import Array, Ids, Mask


class Combined(NamedTuple):
    """Rows of several clients made one, in double precision."""

    ids: Ids
    values: Array  # (n, c) float64
    voters: Array  # (n,) how many clients spoke for the row
    weight: Array | None  # (n, c) float32, 0 where nobody owns the class and 1 elsewhere; None: all are owned


def as_matrix(weight: Array | None, n: int) -> Array:
    """Weights as (n, 1) or (n, c)."""
    if weight is None:
        return np.ones((n, 1))
    return weight[:, None] if weight.ndim == 1 else weight


def heard_weight(heard: Mask) -> Array | None:
    """The answer's weight from which entries (n, c) anybody was heard on; rows without a heard entry count whole."""
    whole = heard | ~heard.any(axis=1, keepdims=True)
    return None if whole.all() else whole.astype(np.float32)

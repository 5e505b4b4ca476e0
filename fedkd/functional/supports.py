"""Rows of many columns cut down to their largest k and a tail, on NumPy arrays."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from fedkd.functional.aggregation import LOG_FLOOR, log_normalise
from fedkd.types import Array


def top_support(log_probs: Float[Array, "n c"], k: int) -> tuple[Float[Array, "n k1"], Int[Array, "n k"]]:
    """(values (n, k + 1), support (n, k)) of normalised log-probabilities: the k largest, and the log of the rest.

    Supports ascend; of equal values the lower column stays. Values are at least `LOG_FLOOR`.

    Args:
        k: 1 <= k < c.
    """
    order = np.argsort(-log_probs, axis=1, kind="stable")
    support = np.sort(order[:, :k], axis=1)
    rest = np.take_along_axis(log_probs, order[:, k:], axis=1).astype(np.float64)
    tail = np.logaddexp.reduce(rest, axis=1, keepdims=True)
    values = np.concatenate([np.take_along_axis(log_probs, support, axis=1), tail], axis=1)
    return np.maximum(values, LOG_FLOOR).astype(np.float32), support.astype(np.int32)


def spread_support(values: Float[Array, "n k1"], support: Int[Array, "n k"], num_columns: int) -> Float[Array, "n c"]:
    """Log-probabilities (n, c) in which the tail lies evenly on the columns that the support does not name."""
    k = support.shape[1]
    share = values[:, k:].astype(np.float64) - np.log(num_columns - k)
    dense = np.repeat(share, num_columns, axis=1)
    np.put_along_axis(dense, support.astype(np.int64), values[:, :k].astype(np.float64), axis=1)
    return log_normalise(dense).astype(np.float32)

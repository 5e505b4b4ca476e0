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
        log_probs: no value is NaN.
        k: 1 <= k < c.
    """
    num_columns = log_probs.shape[1]
    # A partition and not a sort: of tens of thousands of columns few are kept, and the others need no order.
    least = np.partition(log_probs, num_columns - k, axis=1)[:, num_columns - k, None]
    above, level = log_probs > least, log_probs == least
    room = k - above.sum(axis=1, keepdims=True)
    kept = above | (level & (np.cumsum(level, axis=1, dtype=np.int32) <= room))
    support = np.nonzero(kept)[1].reshape(len(log_probs), k)
    rest = log_probs[~kept].reshape(len(log_probs), num_columns - k).astype(np.float64)
    values = np.concatenate([np.take_along_axis(log_probs, support, axis=1), _log_mass(rest)], axis=1)
    return np.maximum(values, LOG_FLOOR).astype(np.float32), support.astype(np.int32)


def spread_support(values: Float[Array, "n k1"], support: Int[Array, "n k"], num_columns: int) -> Float[Array, "n c"]:
    """Log-probabilities (n, c) in which the tail lies evenly on the columns that the support does not name."""
    k = support.shape[1]
    share = values[:, k:].astype(np.float64) - np.log(num_columns - k)
    dense = np.repeat(share, num_columns, axis=1)
    np.put_along_axis(dense, support.astype(np.int64), values[:, :k].astype(np.float64), axis=1)
    return log_normalise(dense).astype(np.float32)


def _log_mass(log_probs: Float[Array, "n c"]) -> Float[Array, "n 1"]:
    """Logarithm of the sum of the probabilities of each row; minus infinity where none is above 0."""
    top = np.maximum(log_probs.max(axis=1, keepdims=True), LOG_FLOOR)
    with np.errstate(divide="ignore"):
        total: Array = top + np.log(np.exp(log_probs - top).sum(axis=1, keepdims=True))
    return total

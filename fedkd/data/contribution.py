"""What a client gives to the proxy set."""

from __future__ import annotations

import numpy as np

from fedkd.errors import DataError
from fedkd.types import Ids


def split_contribution(
    num_private: int, *, fraction: float, keep_private: bool, rng: np.random.Generator
) -> tuple[Ids, Ids]:
    """Positions of a client's samples that it contributes, and of those that stay in its training set; both ascending.

    Args:
        fraction: alpha, 0..1; the count is rounded, and at least one sample is contributed and one stays.
        keep_private: contributed samples also stay in the training set.

    Raises:
        DataError: too few samples to contribute one and keep one.
    """
    needed = 1 if keep_private else 2
    if num_private < needed:
        raise DataError(
            f"{num_private} private samples, expected at least {needed} to contribute one to the proxy set and "
            "train on one; use fewer clients, a larger partition.min_samples, or proxy.keep_private = true"
        )
    count = min(max(round(fraction * num_private), 1), max(num_private - 1, 1))
    contributed: Ids = np.sort(rng.choice(num_private, count, replace=False)).astype(np.int64, copy=False)
    everything = np.arange(num_private)
    return contributed, everything if keep_private else np.delete(everything, contributed)

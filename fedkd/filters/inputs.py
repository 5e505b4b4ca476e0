"""Samples as the rows that filters compare."""

from __future__ import annotations

import math

from fedkd.data.base import Samples
from fedkd.errors import DataError
from fedkd.types import Array


def flat(samples: Samples) -> Array:
    """Inputs as rows (n, d)."""
    return samples.x.reshape(len(samples), math.prod(samples.x.shape[1:]))


def flat_like(samples: Samples, width: int, *, filter: str) -> Array:
    """Inputs as rows (n, width); DataError where they have another number of features than `filter` was fitted on."""
    x = flat(samples)
    if x.shape[1] != width:
        raise DataError(
            f"the samples have {x.shape[1]} features, but the {filter} filter was fitted on {width}; "
            "the proxy set must have the same input shape as the private data"
        )
    return x


def require(samples: Samples, *, filter: str, role: str) -> None:
    """DataError where there is no sample. `role`: private or hold-out."""
    if not len(samples):
        advice = "use more data or fewer clients" if role == "private" else "raise filter.holdout or use more data"
        raise DataError(f"the {filter} filter got no {role} sample; {advice}")

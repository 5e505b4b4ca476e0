"""Masks of the rows that a server keeps."""

from __future__ import annotations

from jaxtyping import Bool, Float

from fedkd.functional.aggregation import row_entropy
from fedkd.types import Array


def ambiguity(probs: Float[Array, "n c"]) -> Float[Array, " n"]:
    """L1 distance of each row to its own one-hot arg max: 2 (1 - max), in [0, 2 (1 - 1/c)].

    Paper: Shao et al. 2024 (Selective-FD), server selector. Deviation: none.
    """
    distance: Array = 2.0 * (1.0 - probs.max(axis=-1))
    return distance


def certain_mask(probs: Float[Array, "n c"], *, form: str, threshold: float) -> Bool[Array, " n"]:
    """Keep rows below the threshold: `l1` compares `ambiguity` (strictly), `entropy` the entropy in nats (at most)."""
    if form == "l1":
        keep: Array = ambiguity(probs) < threshold
    else:
        keep = row_entropy(probs) <= threshold
    return keep

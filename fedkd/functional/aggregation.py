"""Pure maths of server-side aggregation on NumPy arrays."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from fedkd.types import Array

LOG_FLOOR = -80.0  # log-probabilities below it travel as this: exp(-80) is nothing, and minus infinity is refused


def softmax(values: Float[Array, "n c"], *, temperature: float = 1.0) -> Float[Array, "n c"]:
    """Row-wise softmax of values / temperature, safe for large values."""
    scaled = values / temperature
    shifted = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    soft: Array = shifted / shifted.sum(axis=-1, keepdims=True)
    return soft


def log_normalise(values: Float[Array, "n c"]) -> Float[Array, "n c"]:
    """Log-probabilities of the rows: values less the logarithm of their summed exponentials, at least `LOG_FLOOR`."""
    shifted = values - values.max(axis=-1, keepdims=True)
    logs: Array = np.maximum(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), LOG_FLOOR)
    return logs


def entropy_reduction(probs: Float[Array, "n c"], *, temperature: float) -> Float[Array, "n c"]:
    """Entropy reduction aggregation (ERA): softmax of the averaged probabilities over `temperature`.

    The softmax is taken of probabilities, not of logits; temperature -> 0 tends to the one-hot of the arg max.
    Paper: Itahara et al. 2021 (DS-FL), eq. of ERA; temperature 0.1 there. Deviation: none.
    """
    return softmax(probs, temperature=temperature)


def row_entropy(probs: Float[Array, "n c"]) -> Float[Array, " n"]:
    """Shannon entropy of each row in nats; 0 log 0 counts as 0."""
    entropy: Array = -(probs * np.log(np.where(probs > 0, probs, 1.0))).sum(axis=-1)
    return entropy

"""Sequences of tokens as vectors that filters can compare."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from fedkd.types import Array

WIDEST = 1024  # columns; words of larger vocabularies share them


def token_shares(tokens: Int[Array, "n t"], keep: Bool[Array, "n t"], *, num_words: int) -> Float[Array, "n d"]:
    """Share of the kept tokens of each sequence that are word 0, 1, ...; float32, zeros where none is kept.

    d is `num_words`, at most WIDEST: word w counts in column w % d.
    """
    width = min(num_words, WIDEST)
    row = np.repeat(np.arange(len(tokens)), tokens.shape[1]).reshape(tokens.shape)[keep]
    counts = np.bincount(row * width + tokens[keep] % width, minlength=len(tokens) * width).reshape(-1, width)
    shares: Array = (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).astype(np.float32)
    return shares

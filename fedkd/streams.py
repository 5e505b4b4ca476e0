"""Random streams. Each is derived from the seed and from who uses it, so one more draw here moves nothing there."""

from __future__ import annotations

import hashlib

import numpy as np


def stream_seed(seed: int, name: str, *, round_id: int | None = None, client: int | None = None) -> int:
    """A 63-bit seed for `name`, the same on every machine; for torch generators and scikit-learn."""
    text = f"{seed}/{name}/{round_id}/{client}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def stream(seed: int, name: str, *, round_id: int | None = None, client: int | None = None) -> np.random.Generator:
    """An independent generator for `name`; never seeds anything global."""
    return np.random.default_rng(stream_seed(seed, name, round_id=round_id, client=client))

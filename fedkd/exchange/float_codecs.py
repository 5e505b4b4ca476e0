"""Codecs that send floats as they are, in full or half precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import numpy.typing as npt

from fedkd.exchange.codec import Codec, Encoded
from fedkd.exchange.frame import decode_frame, encode_frame
from fedkd.rows import KINDS, Rows
from fedkd.types import Array


@dataclass(frozen=True, kw_only=True)
class FloatConfig:
    """Nothing to choose."""


@final
class Float32(Codec):
    """4 bytes a value; lossless."""

    Config: ClassVar[type] = FloatConfig
    kinds = KINDS

    def __init__(self, config: FloatConfig) -> None:
        self.config = config

    def encode(self, rows: Rows) -> Encoded:
        """Values as float32, ids as int32 where they fit."""
        return encode_frame(rows, _narrow(rows, np.float32))

    def decode(self, encoded: Encoded) -> Rows:
        """The rows that were encoded."""
        return decode_frame(encoded)


@final
class Float16(Codec):
    """2 bytes a value. Values beyond 65,504 are clipped to it, never sent as infinity."""

    Config: ClassVar[type] = FloatConfig
    kinds = KINDS - {"hard"}

    def __init__(self, config: FloatConfig) -> None:
        self.config = config

    def encode(self, rows: Rows) -> Encoded:
        """Values as float16, ids as int32 where they fit."""
        return encode_frame(rows, _narrow(rows, np.float16))

    def decode(self, encoded: Encoded) -> Rows:
        """The rows with values rounded to half precision, as float32."""
        return decode_frame(encoded)


def _narrow(rows: Rows, dtype: npt.DTypeLike) -> Array:
    """Values within the type's range; class numbers stay as they are."""
    if rows.kind == "hard":
        return rows.values
    limits = np.finfo(np.dtype(dtype))
    return np.clip(rows.values, limits.min, limits.max).astype(dtype)

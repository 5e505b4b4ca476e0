"""One byte a value: affine quantisation per row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from fedkd.errors import BadReplyError
from fedkd.exchange.codec import Codec, Encoded
from fedkd.exchange.frame import decode_frame, encode_frame
from fedkd.rows import KINDS, Rows

_LEVELS = 255
_LIMITS = np.finfo(np.float32)


@dataclass(frozen=True, kw_only=True)
class Int8Config:
    """Nothing to choose."""


@final
class Int8(Codec):
    """Each row on 256 levels between its own least and largest value: c bytes and two float32 a row.

    The error of a value is at most (largest - least) / 510. Probabilities are scaled back to sum to one.
    """

    Config: ClassVar[type] = Int8Config
    kinds = KINDS - {"hard"}

    def __init__(self, config: Int8Config) -> None:
        self.config = config

    def encode(self, rows: Rows) -> Encoded:
        """Levels as uint8, with each row's least value and step. A row with NaN has a least value of NaN."""
        values = np.clip(rows.values, _LIMITS.min, _LIMITS.max).astype(np.float64)  # float32 differences overflow
        low, high = values.min(axis=1, initial=np.inf), values.max(axis=1, initial=-np.inf)
        step = ((high - low) / _LEVELS).astype(np.float32)
        scaled = np.nan_to_num((values - low[:, None]) / np.where(step > 0, step, 1)[:, None])
        frame = encode_frame(rows, np.rint(scaled).clip(0, _LEVELS).astype(np.uint8))
        return Encoded(frame.header, {**frame.arrays, "low": low.astype(np.float32), "step": step})

    def decode(self, encoded: Encoded) -> Rows:
        """The rows, to within half a step."""
        arrays = dict(encoded.arrays)
        try:
            low, step, levels = arrays.pop("low"), arrays.pop("step"), arrays["values"]
        except KeyError as error:
            raise BadReplyError(f"encoded rows lack {error}") from error
        is_affine = low.dtype == step.dtype == np.float32 and low.shape == step.shape == levels.shape[:1]
        if levels.dtype != np.uint8 or levels.ndim != 2 or not is_affine:
            raise BadReplyError(
                f"levels are {levels.dtype} {levels.shape}, lows {low.dtype} {low.shape}, steps {step.dtype} "
                f"{step.shape}; expected uint8 (n, c), float32 (n,), float32 (n,)"
            )
        if not (np.isfinite(low) & np.isfinite(step) & (step >= 0)).all():
            raise BadReplyError("rows have a least value or a step that is NaN, infinite or below 0")
        values = low.astype(np.float64)[:, None] + levels * step.astype(np.float64)[:, None]
        if encoded.header.get("kind") == "probs":
            values = values.clip(0)
            total = values.sum(axis=1, keepdims=True)
            values = np.divide(values, total, out=values, where=total > 0)  # the border refuses a row of zeros
        values = values.clip(_LIMITS.min, _LIMITS.max).astype(np.float32)
        return decode_frame(Encoded(encoded.header, {**arrays, "values": values}))

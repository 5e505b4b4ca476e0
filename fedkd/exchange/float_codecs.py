"""Codecs that send floats as they are, in full or half precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import numpy.typing as npt

from fedkd.errors import BadReplyError
from fedkd.exchange.codec import Codec, Encoded
from fedkd.rows import KINDS, SPACES, Rows
from fedkd.types import Array

_COLUMN = "column/"


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
        return _encode(rows, np.float32)

    def decode(self, encoded: Encoded) -> Rows:
        """The rows that were encoded."""
        return _decode(encoded)


@final
class Float16(Codec):
    """2 bytes a value. Values beyond 65,504 are clipped to it, never sent as infinity."""

    Config: ClassVar[type] = FloatConfig
    kinds = KINDS - {"hard"}

    def __init__(self, config: FloatConfig) -> None:
        self.config = config

    def encode(self, rows: Rows) -> Encoded:
        """Values as float16, ids as int32 where they fit."""
        return _encode(rows, np.float16)

    def decode(self, encoded: Encoded) -> Rows:
        """The rows with values rounded to half precision, as float32."""
        return _decode(encoded)


def _encode(rows: Rows, dtype: npt.DTypeLike) -> Encoded:
    """Header and arrays; a weight of None and absent columns cost nothing."""
    largest = int(rows.ids[-1]) if len(rows) else 0
    values = rows.values
    if rows.kind != "hard":
        limits = np.finfo(np.dtype(dtype))
        values = np.clip(values, limits.min, limits.max).astype(dtype)
    arrays: dict[str, Array] = {
        "ids": rows.ids.astype(np.int32 if largest <= np.iinfo(np.int32).max else np.int64),
        "values": values,
    }
    if rows.weight is not None:
        arrays["weight"] = rows.weight.astype(np.float32)
    arrays |= {_COLUMN + name: column.astype(np.float32) for name, column in rows.columns.items()}
    return Encoded({"space": rows.space, "kind": rows.kind, "variant": rows.variant}, arrays)


def _decode(encoded: Encoded) -> Rows:
    """Rows from header and arrays; BadReplyError where something is missing or of the wrong shape."""
    header, arrays = encoded.header, encoded.arrays
    try:
        space, kind, variant = str(header["space"]), str(header["kind"]), str(header["variant"])
        ids, values = arrays["ids"], arrays["values"]
    except KeyError as error:
        raise BadReplyError(f"encoded rows lack {error}") from error
    if space not in SPACES or kind not in KINDS:
        raise BadReplyError(f"encoded rows are of space {space!r} and kind {kind!r}, which do not exist")
    if ids.dtype.kind != "i":
        raise BadReplyError(f"ids are {ids.dtype}, expected whole numbers")
    try:
        return Rows(
            space=space,  # type: ignore[arg-type] # checked above
            kind=kind,  # type: ignore[arg-type]
            variant=variant,
            ids=ids.astype(np.int64),
            values=values if kind == "hard" else values.astype(np.float32),
            weight=arrays.get("weight"),
            columns={name.removeprefix(_COLUMN): a for name, a in arrays.items() if name.startswith(_COLUMN)},
        )
    except ValueError as error:
        raise BadReplyError(str(error)) from error

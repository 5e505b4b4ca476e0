"""What every codec sends beside the values: identity, ids, weights, columns, support. A codec decides on the values."""

from __future__ import annotations

import numpy as np

from fedkd.errors import BadReplyError
from fedkd.exchange.codec import Encoded
from fedkd.rows import KINDS, SPACES, Rows
from fedkd.types import Array

_COLUMN = "column/"


def encode_frame(rows: Rows, values: Array) -> Encoded:
    """Rows with `values` (n, ...) as they shall travel. A weight of None and absent columns cost nothing."""
    largest = int(rows.ids[-1]) if len(rows) else 0
    arrays: dict[str, Array] = {
        "ids": rows.ids.astype(np.int32 if largest <= np.iinfo(np.int32).max else np.int64),
        "values": values,
    }
    if rows.weight is not None:
        arrays["weight"] = rows.weight.astype(np.float32)
    if rows.support is not None:
        arrays["support"] = rows.support.astype(np.int32)
    arrays |= {_COLUMN + name: column.astype(np.float32) for name, column in rows.columns.items()}
    return Encoded({"space": rows.space, "kind": rows.kind, "variant": rows.variant}, arrays)


def decode_frame(encoded: Encoded) -> Rows:
    """Rows from header and arrays; BadReplyError where something is missing or of the wrong shape."""
    header, arrays = encoded.header, encoded.arrays
    try:
        space, kind, variant = str(header["space"]), str(header["kind"]), str(header["variant"])
        ids, values = arrays["ids"], arrays["values"]
    except KeyError as error:
        raise BadReplyError(f"encoded rows lack {error}") from error
    if space not in SPACES or kind not in KINDS:
        raise BadReplyError(f"encoded rows are of space {space!r} and kind {kind!r}, which do not exist")
    whole = ("ids", "support", "values") if kind == "hard" else ("ids", "support")
    for name, array in arrays.items():
        if array.dtype.kind not in ("i" if name in whole else "f"):
            raise BadReplyError(f"{name} are {array.dtype}, expected {'whole' if name in whole else 'real'} numbers")
    weight, support = arrays.get("weight"), arrays.get("support")
    columns = {name.removeprefix(_COLUMN): column for name, column in arrays.items() if name.startswith(_COLUMN)}
    try:
        return Rows(
            space=space,  # type: ignore[arg-type] # checked above
            kind=kind,  # type: ignore[arg-type]
            variant=variant,
            ids=ids.astype(np.int64),
            values=values if kind == "hard" else values.astype(np.float32),
            weight=None if weight is None else weight.astype(np.float32),
            columns={name: column.astype(np.float32) for name, column in columns.items()},
            support=None if support is None else support.astype(np.int32),
        )
    except ValueError as error:
        raise BadReplyError(str(error)) from error

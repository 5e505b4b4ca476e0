"""A safetensors file as views of it: however many processes of a machine use its arrays, they are in memory once."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedkd.errors import BadReplyError
from fedkd.federation.wire import DTYPES, HEADER, header_in
from fedkd.types import Array

_LENGTH = 8  # bytes of the number that the file begins with: how long the format's own header is
_NAMES = {"b": "BOOL", "i": "I", "u": "U", "f": "F"}  # by the kind of a NumPy type; all but the first with their bits
_TYPES: Mapping[str, np.dtype[Any]] = {
    _NAMES[dtype.kind] + ("" if dtype.kind == "b" else str(8 * dtype.itemsize)): dtype for dtype in DTYPES
}


def map_arrays(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Header and arrays of a file that `save_arrays` made; what is written into them stays in this process.

    Raises:
        BadReplyError: it is no such file, or cut short.
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        try:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            start = _LENGTH + int.from_bytes(memory[:_LENGTH], "little")
            places = json.loads(memory[_LENGTH:start])
            arrays = {name: _view(memory, start, place) for name, place in places.items()}
            return header_in(arrays.pop(HEADER)), arrays
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise BadReplyError(f"no valid message: {error}") from error


def _view(memory: mmap.mmap, start: int, place: Mapping[str, Any]) -> Array:
    """The array at a place {"dtype", "shape", "data_offsets"}, counted from `start`."""
    shape, (first, last), dtype = place["shape"], place["data_offsets"], _TYPES[place["dtype"]]
    count = math.prod(shape)
    if first < 0 or last - first != count * dtype.itemsize:
        raise ValueError(f"{count} values of {place['dtype']} cannot lie in {last - first} bytes")
    return np.frombuffer(memory, dtype, count, start + first).reshape(shape)

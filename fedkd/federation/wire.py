"""Bytes on the wire and on disk: one safetensors blob of named arrays and a JSON header. Never a pickle.

A *parcel* is a header and its arrays. A *bundle* is what one message holds: a parcel for all, and one for each client.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedkd.errors import BadReplyError
from fedkd.types import Array

SCHEMA = 1  # bumped on any change of meaning
# What safetensors brings back as it was sent. Not complex, which no message needs.
DTYPES = frozenset(
    np.dtype(kind)
    for kind in (np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)
) | frozenset(np.dtype(kind) for kind in (np.float16, np.float32, np.float64))
HEADER = "header"  # name of the array that holds a blob's JSON header
_ENCODER = json.JSONEncoder(allow_nan=False, sort_keys=True)  # json.dumps with these options makes a new one each time


@dataclass(frozen=True, eq=False)
class Parcel:
    """A small JSON header and named arrays."""

    header: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays as serialised: the payload, without framing."""
        return sum(array.nbytes for array in self.arrays.values())


@dataclass(frozen=True, eq=False)
class Bundle:
    """What one message holds."""

    kind: str
    shared: Parcel
    clients: dict[int, Parcel] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.shared.nbytes + sum(parcel.nbytes for parcel in self.clients.values())


def pack(bundle: Bundle) -> bytes:
    """The bundle as bytes."""
    header = {
        "schema": SCHEMA,
        "kind": bundle.kind,
        "shared": bundle.shared.header,
        "clients": {str(client_id): parcel.header for client_id, parcel in bundle.clients.items()},
    }
    arrays = {f"/{name}": array for name, array in bundle.shared.arrays.items()}
    for client_id, parcel in bundle.clients.items():
        arrays |= {f"{client_id}/{name}": array for name, array in parcel.arrays.items()}
    return save_arrays(header, arrays)


def unpack(data: bytes) -> Bundle:
    """The bundle that `pack` made; BadReplyError for anything else."""
    header, arrays = load_arrays(data)
    try:
        if header["schema"] != SCHEMA:
            raise BadReplyError(
                f"message has schema {header['schema']!r}, expected {SCHEMA}; run the same fedkd version on both sides"
            )
        shared = Parcel(_mapping(header["shared"]))
        clients = {int(client_id): Parcel(_mapping(own)) for client_id, own in _mapping(header["clients"]).items()}
        kind = str(header["kind"])
    except (KeyError, ValueError) as error:
        raise BadReplyError(f"message header lacks or garbles {error}") from error
    homes = {"": shared.arrays, **{str(client_id): parcel.arrays for client_id, parcel in clients.items()}}
    for name, array in arrays.items():
        client, _, rest = name.partition("/")
        if client not in homes:
            raise BadReplyError(f"message holds an array {name!r} of nobody")
        homes[client][rest] = array
    return Bundle(kind, shared, clients)


def travels(parcel: Parcel) -> Parcel:
    """The parcel itself; BadReplyError naming the field or array that could not be packed."""
    try:
        _ENCODER.encode(parcel.header)  # at once: one call for each field was most of what a small share took
    except (TypeError, ValueError, RecursionError):
        _check_fields(parcel.header)
    for name, array in parcel.arrays.items():
        if array.dtype not in DTYPES:
            raise BadReplyError(f"array {name!r} is {array.dtype}, expected whole numbers, floats or booleans")
    return parcel


def save_arrays(header: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    """A safetensors blob; the header travels as an array of its own."""
    text = np.frombuffer(_ENCODER.encode(header).encode(), np.uint8)
    # safetensors writes the buffer as it lies: a strided view would arrive garbled. asarray keeps 0-d arrays 0-d.
    packed: bytes = save({HEADER: text, **{name: np.asarray(array, order="C") for name, array in arrays.items()}})
    return packed


def load_arrays(data: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """Header and arrays of a blob; BadReplyError where it is none."""
    try:
        arrays = load(data)
        header = header_in(arrays.pop(HEADER))
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise BadReplyError(f"no valid message: {error}") from error
    for name, array in arrays.items():
        if array.dtype not in DTYPES:
            raise BadReplyError(f"array {name!r} is {array.dtype}, expected whole numbers, floats or booleans")
    return header, arrays


def header_in(text: Array) -> dict[str, Any]:
    """The JSON header in an array of bytes; ValueError or BadReplyError where it is none."""
    return _mapping(json.loads(text.tobytes(), parse_constant=_finite, parse_float=_finite))


def _check_fields(header: Mapping[str, Any]) -> None:
    """BadReplyError naming the field that is no JSON; the names are ours, so one of the values is to blame."""
    for name, value in header.items():
        try:
            _ENCODER.encode(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise BadReplyError(f"{name!r} is {value!r:.200}, which is no plain finite JSON: {error}") from error
    raise BadReplyError(f"the names {list(header)!r:.200} are not all text")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a number is {text}")
    return value


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadReplyError(f"message header holds {type(value).__name__} where a mapping is due")
    return value

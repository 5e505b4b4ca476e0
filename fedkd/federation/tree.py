"""State trees: tensors, arrays, numbers, texts, lists and dicts, to a parcel and back, with a digest."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from typing import Any

import numpy as np

from fedkd.errors import StateError
from fedkd.federation.wire import DTYPES, Parcel
from fedkd.types import Array

_LEAF = "$array"  # marks an array's place in the skeleton: {"$array": number, "as": "torch" or "numpy"}
_FLOAT = "$float"  # marks NaN and the infinities, which JSON lacks: {"$float": "inf"}


def to_parcel(tree: object) -> Parcel:
    """Header {"tree": skeleton} and the arrays, numbered in the order of sorted keys.

    Raises:
        StateError: a leaf is no tensor, array, number, text, bool or None: it could not be restored.
    """
    arrays: dict[str, Array] = {}
    return Parcel({"tree": _strip(tree, arrays, "state")}, arrays)


def from_parcel(parcel: Parcel) -> Any:
    """The tree, tensors on the CPU."""
    return _fill(parcel.header["tree"], parcel.arrays)


def digest(parcel: Parcel) -> str:
    """Content digest of a parcel: 32 hex characters, the same on every machine."""
    hashed = hashlib.blake2b(json.dumps(parcel.header, sort_keys=True).encode(), digest_size=16)
    for name in sorted(parcel.arrays):
        array = parcel.arrays[name]
        hashed.update(f"{name}{array.dtype.str}{array.shape}".encode())
        hashed.update(np.ascontiguousarray(array).data)
    return hashed.hexdigest()


def _strip(node: object, arrays: dict[str, Array], path: str) -> Any:
    if isinstance(node, dict):
        bad = [key for key in node if not isinstance(key, str) or key in (_LEAF, _FLOAT)]
        if bad:
            raise StateError(f"{path} has the key {bad[0]!r}; keys must be texts other than {_LEAF} and {_FLOAT}")
        return {key: _strip(node[key], arrays, f"{path}.{key}") for key in sorted(node)}
    if isinstance(node, list | tuple):
        return [_strip(item, arrays, f"{path}[{i}]") for i, item in enumerate(node)]
    if isinstance(node, np.ndarray):
        return _leaf(arrays, node, {"as": "numpy"}, path)
    if isinstance(node, np.generic):
        return _strip(node.item(), arrays, path)
    if isinstance(node, float) and not math.isfinite(node):
        return {_FLOAT: str(node)}
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if _is_tensor(node):
        import torch

        tensor = node.detach().cpu()  # type: ignore[attr-defined]
        if tensor.dtype == torch.bfloat16:  # NumPy has no bfloat16: its bits travel
            return _leaf(arrays, tensor.view(torch.int16).numpy(), {"as": "bfloat16"}, path)
        return _leaf(arrays, tensor.numpy(), {"as": "torch"}, path)
    raise StateError(f"{path} is a {type(node).__name__}; a state holds tensors, numbers, texts, lists and dicts only")


def _leaf(arrays: dict[str, Array], array: Array, mark: dict[str, object], path: str) -> dict[str, object]:
    if array.dtype not in DTYPES:
        raise StateError(f"{path} is an array of {array.dtype}; a state holds whole numbers, floats and booleans only")
    name = str(len(arrays))
    arrays[name] = array
    return {_LEAF: name, **mark}


def _fill(node: Any, arrays: dict[str, Array]) -> Any:
    if isinstance(node, list):
        return [_fill(item, arrays) for item in node]
    if not isinstance(node, dict):
        return node
    if _FLOAT in node:
        return float(node[_FLOAT])
    if _LEAF not in node:
        return {key: _fill(value, arrays) for key, value in node.items()}
    array = arrays[node[_LEAF]]
    if not array.flags.writeable:
        array = array.copy()  # a restored state is as writeable as one that stayed in memory
    if node["as"] == "numpy":
        return array
    import torch

    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if node["as"] == "bfloat16" else tensor


def _is_tensor(node: object) -> bool:
    module: Any = sys.modules.get("torch")  # without torch nothing can be a tensor
    return module is not None and isinstance(node, module.Tensor)

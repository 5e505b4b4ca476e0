"""Arrays kept on a GPU, so that batches are cut there instead of being gathered here and sent one by one."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from fedkd.types import Array, Ids

SHARE = 0.25  # of the memory that would be free without them: all that resident arrays may take
_CHUNK_BYTES = 2**24  # an array moves in by so much at a time: pinned memory is never given back
Rows: TypeAlias = Ids | slice  # positions in the first dimension


def sent(array: Array, device: str) -> Tensor:
    """The array as a tensor on the device: of its own memory on the CPU, a copy elsewhere.

    To a GPU it goes by way of pinned memory, so nobody waits for it; the array may be changed at once.
    """
    if not device.startswith("cuda"):
        return torch.from_numpy(array).to(device)
    pinned = torch.empty(array.shape, dtype=_dtype_of(array), pin_memory=True)
    pinned.numpy()[...] = array
    return pinned.to(device, non_blocking=True)


@dataclass(eq=False)
class _Known:
    """An array that rows were asked of."""

    ref: weakref.ref[Array]
    sent_bytes: int = 0  # of its rows, since it last moved out
    tensor: Tensor | None = None


@final
class Residents:
    """Copies of arrays on one device. When room is short, those used least recently move out; each goes with its array.

    An array moves in once the rows that were sent of it weigh as much as all of it. So what is asked for once is not
    copied whole, and where the arrays in use do not fit together, moving in and out at most doubles what is sent.

    Nobody may write to an array that rows were asked of, nor to the rows.

    Args:
        free: bytes that are free on the device now.
        send: a copy of an array on the device.
    """

    def __init__(self, device: str, *, free: Callable[[], int], send: Callable[[Array], Tensor]) -> None:
        self._device, self._free, self._send = device, free, send
        self._known: dict[int, _Known] = {}  # by id(array); those used last come last
        self.held_bytes = 0

    def rows(self, array: Array, at: Rows) -> Tensor:
        """`array[at]` on the device; a slice of a resident array is a view of it."""
        known = self._look_up(array)
        if known.tensor is None and known.sent_bytes >= array.nbytes:
            self._move_in(array, known)
        if known.tensor is None:
            rows = array[at]
            known.sent_bytes += rows.nbytes
            return self._send(rows)
        return known.tensor[at] if isinstance(at, slice) else known.tensor.index_select(0, self._send(at))

    def fits(self, num_bytes: int) -> bool:
        """Whether so much is within the budget, if all else moved out."""
        return num_bytes <= SHARE * (self._free() + self.held_bytes)

    def holds(self, array: Array) -> bool:
        """Whether the array is resident."""
        known = self._known.get(id(array))
        return known is not None and known.tensor is not None

    def _look_up(self, array: Array) -> _Known:
        key = id(array)
        known = self._known.pop(key, None) or _Known(weakref.ref(array, lambda _: self._forget(key)))
        self._known[key] = known
        return known

    def _move_in(self, array: Array, known: _Known) -> None:
        """Make the array resident; where it is larger than the budget, it is not asked about for another round."""
        known.sent_bytes = 0
        budget = int(SHARE * (self._free() + self.held_bytes))
        if array.nbytes > budget:
            return
        for other in list(self._known.values()):
            if self.held_bytes + array.nbytes <= budget:
                break
            self._move_out(other)
        tensor = torch.empty(array.shape, dtype=_dtype_of(array), device=self._device)
        step = max(1, _CHUNK_BYTES // max(1, array[:1].nbytes))
        for start in range(0, len(array), step):
            tensor[start : start + step] = self._send(array[start : start + step])
        known.tensor = tensor
        self.held_bytes += array.nbytes

    def _move_out(self, known: _Known) -> None:
        if known.tensor is not None:
            self.held_bytes -= known.tensor.nbytes
            known.tensor = None

    def _forget(self, key: int) -> None:
        known = self._known.pop(key, None)
        if known is not None:
            self._move_out(known)


def residents(device: str) -> Residents | None:
    """The arrays on a GPU; None for other devices: the CPU works on the arrays themselves."""
    place = torch.device(device)
    if place.type != "cuda":
        return None
    return _on_gpu(torch.cuda.current_device() if place.index is None else place.index)


@functools.cache
def _on_gpu(index: int) -> Residents:
    device = f"cuda:{index}"
    return Residents(device, free=functools.partial(_free_bytes, index), send=functools.partial(sent, device=device))


def _free_bytes(index: int) -> int:
    """What nobody uses, and what torch keeps for later."""
    kept = torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)
    return int(torch.cuda.mem_get_info(index)[0]) + kept


def _dtype_of(array: Array) -> torch.dtype:
    return torch.from_numpy(np.empty(0, array.dtype)).dtype

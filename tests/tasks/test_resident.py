"""The arrays kept on a device, on the CPU with copies in place of transfers: who stays, who goes, what is sent."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from torch import Tensor

from fedkd.tasks.resident import SHARE, Residents, residents, sent
from fedkd.types import Array

ROWS = 10  # of each array, of 32 bytes each


class Device:
    """A device with so much memory, on which nothing else lies."""

    def __init__(self, budget: int) -> None:
        self.memory = int(budget / SHARE)
        self.sent_bytes = 0
        self.kept = Residents("cpu", free=lambda: self.memory - self.kept.held_bytes, send=self.send)

    def send(self, array: Array) -> Tensor:
        self.sent_bytes += array.nbytes
        return torch.from_numpy(array.copy())

    def use(self, array: Array, times: int = 1) -> None:
        for _ in range(times):
            self.kept.rows(array, slice(0, len(array)))


def array_of(seed: int, dtype: str = "float32") -> Array:
    made: Array = (10 * np.random.default_rng(seed).random((ROWS, 32 // np.dtype(dtype).itemsize))).astype(dtype)
    return made


@pytest.mark.parametrize("dtype", ["float32", "int32", "int64", "uint8", "bool"])
@pytest.mark.parametrize("at", [slice(2, 5), np.array([7, 0, 7])], ids=["slice", "index"])
def test_rows_are_those_of_the_array_before_and_after_it_moves_in(dtype: str, at: slice | Array) -> None:
    device, array = Device(1000), array_of(0, dtype)
    for _ in range(5):
        found = device.kept.rows(array, at)
        assert found.numpy().dtype == array.dtype
        assert np.array_equal(found.numpy(), array[at])
    assert device.kept.holds(array)


def test_an_array_moves_in_once_its_rows_weigh_as_much_as_all_of_it() -> None:
    device, array = Device(1000), array_of(0)
    for start in (0, 4, 8):
        device.kept.rows(array, slice(start, start + 4))
        assert not device.kept.holds(array)
    device.kept.rows(array, slice(0, 1))
    assert device.kept.holds(array)
    assert device.kept.held_bytes == array.nbytes
    before = device.sent_bytes
    device.kept.rows(array, slice(0, 10))
    assert device.sent_bytes == before


def test_those_used_least_recently_go_first() -> None:
    device, arrays = Device(700), [array_of(i) for i in range(3)]  # room for two
    device.use(arrays[0], 2)
    device.use(arrays[1], 2)
    device.use(arrays[0])
    device.use(arrays[2], 2)
    assert [device.kept.holds(each) for each in arrays] == [True, False, True]
    assert device.kept.held_bytes == 640


def test_what_is_larger_than_the_budget_is_never_resident_and_moves_nobody_out() -> None:
    device, small, large = Device(350), array_of(0), np.zeros((100, 8), np.float32)
    device.use(small, 2)
    device.use(large, 5)
    assert device.kept.holds(small)
    assert not device.kept.holds(large)
    assert device.sent_bytes == 2 * small.nbytes + 5 * large.nbytes


def test_arrays_that_do_not_fit_together_at_most_double_what_is_sent() -> None:
    device, arrays = Device(350), [array_of(i) for i in range(2)]  # room for one
    for _ in range(20):
        for array in arrays:
            device.use(array)
    assert device.sent_bytes <= 2 * 20 * sum(each.nbytes for each in arrays)


def test_less_free_memory_makes_the_budget_smaller() -> None:
    device, arrays = Device(700), [array_of(i) for i in range(3)]
    device.use(arrays[0], 2)
    device.use(arrays[1], 2)
    device.memory = int(350 / SHARE)  # somebody else took half
    device.use(arrays[2], 2)
    assert [device.kept.holds(each) for each in arrays] == [False, False, True]
    assert device.kept.fits(350)
    assert not device.kept.fits(351)


def test_a_copy_goes_with_its_array() -> None:
    device, array = Device(1000), array_of(0)
    device.use(array, 2)
    assert device.kept.held_bytes == array.nbytes
    del array
    gc.collect()
    assert device.kept.held_bytes == 0
    assert not device.kept._known


def test_an_array_that_is_only_read_can_move_in() -> None:
    device, array = Device(1000), array_of(0)
    array.flags.writeable = False
    device.use(array, 3)
    assert device.kept.holds(array)


def test_an_array_without_rows_is_no_special_case() -> None:
    device, array = Device(1000), np.zeros((0, 3), np.float32)
    for _ in range(3):
        assert device.kept.rows(array, np.zeros(0, np.int64)).shape == (0, 3)


def test_the_cpu_works_on_the_arrays_themselves() -> None:
    assert residents("cpu") is None
    array = array_of(0)
    assert np.shares_memory(sent(array, "cpu").numpy(), array)

from __future__ import annotations

import enum
import math
from typing import Any

import numpy as np
import pytest
import torch

from fedkd.errors import StateError
from fedkd.federation.tree import digest, from_parcel, to_parcel
from fedkd.federation.wire import Bundle, Parcel, pack, unpack


def tree() -> dict[str, Any]:
    return {
        "student": {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(0)},
        "half": torch.tensor([1.5, -2.0, 3e38], dtype=torch.bfloat16),
        "steps": torch.tensor(7),
        "mask": np.array([[True], [False]]),
        "ids": np.arange(3),
        "list": [1, 2.5, None, "text", True, {"deep": torch.ones(1)}],
        "empty": {},
    }


def carried(node: object) -> Any:
    return from_parcel(unpack(pack(Bundle("x", to_parcel(node)))).shared)


def test_a_tree_comes_back_as_it_was() -> None:
    before, after = tree(), carried(tree())
    assert after.keys() == before.keys()
    assert after["list"][:5] == before["list"][:5]
    assert after["empty"] == {}
    pairs = [
        (before["student"]["weight"], after["student"]["weight"]),
        (before["student"]["bias"], after["student"]["bias"]),
        (before["half"], after["half"]),
        (before["steps"], after["steps"]),
        (before["list"][5]["deep"], after["list"][5]["deep"]),
    ]
    for old, new in pairs:
        assert new.dtype == old.dtype
        assert new.shape == old.shape
        assert torch.equal(new, old)
    for name in ("mask", "ids"):
        assert after[name].dtype == before[name].dtype
        np.testing.assert_array_equal(after[name], before[name])


def test_a_restored_array_can_be_written_to() -> None:
    parcel = to_parcel({"a": np.zeros(2), "t": torch.zeros(2)})
    for array in parcel.arrays.values():
        array.flags.writeable = False
    restored = from_parcel(parcel)
    restored["a"] += 1
    restored["t"] += 1
    assert restored["a"].tolist() == restored["t"].tolist() == [1, 1]


def test_numpy_scalars_become_numbers() -> None:
    assert carried({"a": np.float64(0.1), "b": np.int32(3), "c": np.bool_(True)}) == {"a": 0.1, "b": 3, "c": True}


@pytest.mark.parametrize("value", [math.inf, -math.inf, np.float32("inf")])
def test_infinities_come_back(value: float) -> None:
    assert carried({"best": [value]}) == {"best": [value]}


def test_nan_comes_back() -> None:
    assert math.isnan(carried({"best": math.nan})["best"])


def test_the_digest_ignores_the_order_of_keys() -> None:
    before = tree()
    turned = dict(reversed(list(before.items())))
    assert list(turned) != list(before)
    assert digest(to_parcel(turned)) == digest(to_parcel(before))


def test_the_digest_is_equal_after_a_journey() -> None:
    assert digest(to_parcel(carried(tree()))) == digest(to_parcel(tree()))


@pytest.mark.parametrize(
    "changed",
    [
        {"a": torch.tensor([1.0, 2.5])},
        {"a": torch.tensor([1.0, 2.0], dtype=torch.float64)},
        {"a": torch.tensor([[1.0, 2.0]])},
        {"a": np.array([1.0, 2.0], np.float32)},
        {"b": torch.tensor([1.0, 2.0])},
        {"a": torch.tensor([1.0, 2.0]), "n": None},
    ],
)
def test_the_digest_changes_with_the_content(changed: dict[str, Any]) -> None:
    assert digest(to_parcel(changed)) != digest(to_parcel({"a": torch.tensor([1.0, 2.0])}))


def test_a_strided_array_has_the_digest_of_its_copy() -> None:
    whole = np.arange(12.0).reshape(3, 4)
    assert digest(to_parcel({"a": whole[:, ::2]})) == digest(to_parcel({"a": whole[:, ::2].copy()}))


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    ("leaf", "words"),
    [
        (Colour.RED, r"state\.a\[1\]\.b is a Colour"),
        ({1, 2}, r"state\.a\[1\]\.b is a set"),
        (1j, r"state\.a\[1\]\.b is a complex"),
        (np.datetime64("2020-01-01"), r"state\.a\[1\]\.b is a date"),
        (np.array(["text"]), r"state\.a\[1\]\.b is an array of <U4"),
        (np.array([1j]), r"state\.a\[1\]\.b is an array of complex128"),
        (np.arange(2, dtype=">f4"), r"state\.a\[1\]\.b is an array of >f4"),
        ({3: 1}, r"state\.a\[1\]\.b has the key 3"),
        ({"$array": "0"}, r"state\.a\[1\]\.b has the key '\$array'"),
    ],
)
def test_what_cannot_be_restored_is_named_with_its_path(leaf: object, words: str) -> None:
    with pytest.raises(StateError, match=words):
        to_parcel({"a": [0, {"b": leaf}]})


def test_arrays_are_numbered_by_sorted_keys() -> None:
    parcel = to_parcel({"b": np.ones(2), "a": np.zeros(1)})
    assert isinstance(parcel, Parcel)
    assert {name: array.tolist() for name, array in parcel.arrays.items()} == {"0": [0.0], "1": [1.0, 1.0]}

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save

from fedkd.errors import BadReplyError
from fedkd.federation.wire import DTYPES, SCHEMA, Bundle, Parcel, load_arrays, pack, save_arrays, travels, unpack

ARRAYS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "empty": np.zeros((0, 4), np.float16),
    "number": np.array(2.5),
    "strided": np.arange(24, dtype=np.int32).reshape(4, 6)[::2, ::-3],
    "turned": np.arange(6, dtype=np.int64).reshape(2, 3).T,
    "mask": np.array([True, False, True]),
}


def bundle() -> Bundle:
    own = Parcel({"refs": [None, ["file", "digest"]]}, {"share/0/ids": np.array([1, 4], np.int32)})
    return Bundle("round", Parcel({"round_id": 3, "text": "é"}, dict(ARRAYS)), {7: own, 11: Parcel()})


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and np.array_equal(left[name], right[name])
        for name in left
    )


def test_a_bundle_arrives_as_it_was_sent() -> None:
    sent, got = bundle(), unpack(pack(bundle()))
    assert got.kind == "round"
    assert got.shared.header == sent.shared.header
    assert same(got.shared.arrays, sent.shared.arrays)
    assert set(got.clients) == {7, 11}
    assert got.clients[7].header == sent.clients[7].header
    assert same(got.clients[7].arrays, sent.clients[7].arrays)
    assert got.clients[11].header == {}
    assert got.clients[11].arrays == {}


def test_bytes_are_those_of_the_arrays() -> None:
    assert Parcel({"long": "x" * 999}, {"a": np.zeros((3, 5), np.float32), "b": np.zeros(2, np.int8)}).nbytes == 62
    sent = bundle()
    assert sent.nbytes == sent.shared.nbytes + 8
    assert unpack(pack(sent)).nbytes == sent.nbytes


@given(hnp.arrays(st.sampled_from(sorted(DTYPES, key=str)), hnp.array_shapes(min_dims=0, min_side=0, max_side=4)))
def test_every_array_keeps_type_shape_and_bits(array: np.ndarray) -> None:
    got = unpack(pack(Bundle("x", Parcel({}, {"a": array})))).shared.arrays["a"]
    assert (got.dtype, got.shape, got.tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x00" * 64, pack(bundle())[:-1], pack(bundle())[:9]])
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(BadReplyError, match="no valid message"):
        unpack(data)


def header(**changes: Any) -> dict[str, Any]:
    return {"schema": SCHEMA, "kind": "round", "shared": {}, "clients": {}, **changes}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (header(schema=SCHEMA + 1), "same fedkd version on both sides"),
        (header(shared=[1]), "list where a mapping"),
        (header(clients="7"), "str where a mapping"),
        (header(clients={"seven": {}}), "garbles"),
        (header(clients={"7": 1}), "int where a mapping"),
    ],
)
def test_a_wrong_header_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(BadReplyError, match=words):
        unpack(save_arrays(changed, {}))


@pytest.mark.parametrize("lost", ["schema", "kind", "shared", "clients"])
def test_a_lost_field_is_named(lost: str) -> None:
    rest = {name: value for name, value in header().items() if name != lost}
    with pytest.raises(BadReplyError, match=lost):
        unpack(save_arrays(rest, {}))


@pytest.mark.parametrize("name", ["8/x", "x", "-1/x", "seven/x"])
def test_an_array_of_nobody_is_refused(name: str) -> None:
    with pytest.raises(BadReplyError, match="of nobody"):
        unpack(save_arrays(header(clients={"7": {}}), {name: np.zeros(1)}))


def blob(text: str) -> bytes:
    return save({"header": np.frombuffer(text.encode(), np.uint8)})


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_never_come_in(number: str) -> None:
    assert load_arrays(blob('{"score": 1e99}'))[0] == {"score": 1e99}
    with pytest.raises(BadReplyError, match="a number is"):
        load_arrays(blob(f'{{"score": {number}}}'))


def test_a_header_nested_too_deep_is_refused() -> None:
    with pytest.raises(BadReplyError, match="no valid message"):
        load_arrays(blob("[" * 100_000))


def test_complex_arrays_are_refused() -> None:
    data = save({"header": np.frombuffer(b"{}", np.uint8), "weight": np.zeros(2, np.complex64)})
    with pytest.raises(BadReplyError, match="'weight' is complex64"):
        load_arrays(data)


@pytest.mark.parametrize(
    ("parcel", "words"),
    [
        (Parcel({"train": {"loss": float("nan")}}), "'train' is {'loss': nan}"),
        (Parcel({"score": np.float32(1)}), "'score' is .*not JSON serializable"),
        (Parcel({}, {"x": np.array(["text"])}), "'x' is <U4"),
        (Parcel({}, {"x": np.zeros(2, complex)}), "'x' is complex128"),
    ],
)
def test_what_cannot_be_packed_is_named(parcel: Parcel, words: str) -> None:
    with pytest.raises(BadReplyError, match=words):
        travels(parcel)


def test_what_can_be_packed_passes() -> None:
    parcel = bundle().shared
    assert travels(parcel) is parcel


PACKED = pack(bundle())
HEADER_TEXT = json.dumps(header(clients={"7": {"a": [1, None]}}), sort_keys=True)


@given(st.lists(st.tuples(st.integers(0, len(PACKED) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_mutated_bytes_give_a_bundle_or_a_bad_reply(changes: list[tuple[int, int]]) -> None:
    data = bytearray(PACKED)
    for at, value in changes:
        data[at] = value
    with contextlib.suppress(BadReplyError):
        assert isinstance(unpack(bytes(data)), Bundle)


@given(st.integers(0, len(HEADER_TEXT)), st.integers(0, len(HEADER_TEXT)), st.text(max_size=4))
def test_mutated_headers_give_a_bundle_or_a_bad_reply(start: int, stop: int, text: str) -> None:
    with contextlib.suppress(BadReplyError):
        assert isinstance(unpack(blob(HEADER_TEXT[:start] + text + HEADER_TEXT[stop:])), Bundle)

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedkd.errors import BadReplyError
from fedkd.exchange.codec import Codec, Encoded
from fedkd.exchange.float_codecs import Float16, Float32, FloatConfig
from fedkd.rows import Rows
from fedkd.types import Array

FULL, HALF = Float32(FloatConfig()), Float16(FloatConfig())


def rows(size: int, classes: int, *, largest: int | None = None) -> Rows:
    ids = np.arange(size, dtype=np.int64) if largest is None else np.array([largest], np.int64)
    return Rows(space="proxy", kind="logits", ids=ids, values=np.full((len(ids), classes), 0.1, np.float32))


@st.composite
def any_rows(draw: st.DrawFn) -> Rows:
    ids = np.array(sorted(draw(st.sets(st.integers(0, 2**40), max_size=5))), np.int64)
    size, classes = len(ids), draw(st.integers(1, 4))
    values: Array = draw(arrays(np.float32, (size, classes), elements=st.floats(width=32, allow_nan=False)))
    shape = draw(st.sampled_from([None, (size,), (size, classes)]))
    unit = st.floats(0, 1, width=32)
    return Rows(
        space=draw(st.sampled_from(["proxy", "class"])),
        kind=draw(st.sampled_from(["logits", "probs", "feature"])),
        variant=draw(st.text(max_size=3)),
        ids=ids,
        values=values,
        weight=None if shape is None else draw(arrays(np.float32, shape, elements=unit)),
        columns={name: draw(arrays(np.float32, size, elements=unit)) for name in draw(st.sets(st.text(max_size=3)))},
    )


@given(original=any_rows())
def test_full_precision_is_lossless(original: Rows) -> None:
    back = FULL.decode(FULL.encode(original))
    assert back.stream == original.stream
    np.testing.assert_array_equal(back.ids, original.ids)
    limits = np.finfo(np.float32)
    np.testing.assert_array_equal(back.values, np.clip(original.values, limits.min, limits.max))
    assert (back.weight is None) == (original.weight is None)
    if original.weight is not None:
        np.testing.assert_array_equal(back.weight, original.weight)
    assert back.columns.keys() == original.columns.keys()
    for name, column in original.columns.items():
        np.testing.assert_array_equal(back.columns[name], column)


@given(original=any_rows())
def test_half_precision_rounds_the_values_alone(original: Rows) -> None:
    back, exact = HALF.decode(HALF.encode(original)), FULL.decode(FULL.encode(original))
    assert back.values.dtype == np.float32
    assert np.isfinite(back.values).all()
    clipped = np.clip(original.values, -65504, 65504)
    np.testing.assert_allclose(back.values, clipped, rtol=2**-11, atol=2**-25)
    np.testing.assert_array_equal(back.ids, exact.ids)
    if exact.weight is not None:
        np.testing.assert_array_equal(back.weight, exact.weight)


def test_half_precision_clips_and_never_sends_infinity() -> None:
    original = replace(rows(1, 4), values=np.array([[65504, 65519, -1e9, np.inf]], np.float32))
    assert HALF.decode(HALF.encode(original)).values.tolist() == [[65504, 65504, -65504, 65504]]


@pytest.mark.parametrize(("codec", "size"), [(FULL, 4), (HALF, 2)])
@pytest.mark.parametrize(("n", "classes"), [(0, 10), (1, 10), (7, 3)])
def test_a_row_costs_its_values_and_four_bytes_for_the_id(codec: Codec, size: int, n: int, classes: int) -> None:
    encoded = codec.encode(rows(n, classes))
    assert encoded.nbytes == n * (size * classes + 4)
    assert encoded.nbytes == sum(len(array.tobytes()) for array in encoded.arrays.values())


def test_weights_and_columns_cost_four_bytes_each() -> None:
    weighted = replace(rows(5, 3), weight=np.ones((5, 3), np.float32), columns={"score": np.zeros(5, np.float32)})
    assert FULL.encode(weighted).nbytes == 5 * (4 * 3 + 4 + 4 * 3 + 4)
    assert HALF.encode(weighted).nbytes == 5 * (2 * 3 + 4 + 4 * 3 + 4)


def test_ids_beyond_four_bytes_get_eight() -> None:
    assert FULL.encode(rows(1, 1, largest=2**31 - 1)).nbytes == 4 + 4
    assert FULL.encode(rows(1, 1, largest=2**31)).nbytes == 4 + 8


def test_class_numbers_travel_as_they_are() -> None:
    hard = Rows(space="proxy", kind="hard", ids=np.arange(2), values=np.array([[7], [3]], np.int32))
    back = FULL.decode(FULL.encode(hard))
    assert back.values.tolist() == [[7], [3]]
    assert back.values.dtype == np.int32
    assert "hard" not in HALF.kinds


GOOD = FULL.encode(replace(rows(2, 3), weight=np.ones(2, np.float32), columns={"score": np.zeros(2, np.float32)}))


@pytest.mark.parametrize("key", ["space", "kind", "variant"])
def test_a_header_without_a_key_is_refused(key: str) -> None:
    header = {name: value for name, value in GOOD.header.items() if name != key}
    with pytest.raises(BadReplyError, match=f"lack '{key}'"):
        FULL.decode(Encoded(header, GOOD.arrays))


@pytest.mark.parametrize(("key", "value"), [("space", "outer"), ("kind", "guess"), ("kind", 5)])
def test_an_unknown_space_or_kind_is_refused(key: str, value: object) -> None:
    with pytest.raises(BadReplyError, match="do not exist"):
        FULL.decode(Encoded({**GOOD.header, key: value}, GOOD.arrays))


@pytest.mark.parametrize("name", ["ids", "values"])
def test_a_missing_array_is_refused(name: str) -> None:
    with pytest.raises(BadReplyError, match=f"lack '{name}'"):
        FULL.decode(Encoded(GOOD.header, {n: array for n, array in GOOD.arrays.items() if n != name}))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("ids", np.array([0.0, 1.0])),
        ("ids", np.zeros((2, 1), np.int32)),
        ("ids", np.int32(3)),
        ("ids", np.zeros(3, np.int32)),
        ("values", np.zeros(2, np.float32)),
        ("values", np.zeros((2, 3), np.int32)),
        ("values", np.zeros((2, 3), np.complex64)),
        ("weight", np.ones(3, np.float32)),
        ("weight", np.ones(2, np.bool_)),
        ("weight", np.ones(2, np.int32)),
        ("column/score", np.zeros(1, np.float32)),
        ("column/score", np.zeros(2, np.int64)),
    ],
)
@pytest.mark.parametrize("codec", [FULL, HALF])
def test_arrays_of_the_wrong_type_or_shape_are_refused(codec: Codec, name: str, array: Array) -> None:
    with pytest.raises(BadReplyError):
        codec.decode(Encoded(GOOD.header, {**GOOD.arrays, name: np.asarray(array)}))


def test_class_numbers_that_are_no_whole_numbers_are_refused() -> None:
    with pytest.raises(BadReplyError, match="values are float32, expected whole numbers"):
        FULL.decode(Encoded({**GOOD.header, "kind": "hard"}, GOOD.arrays))

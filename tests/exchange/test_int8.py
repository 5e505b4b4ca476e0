from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedkd.errors import BadReplyError
from fedkd.exchange.codec import Encoded
from fedkd.exchange.int8 import Int8, Int8Config
from fedkd.functional.aggregation import softmax
from fedkd.rows import Rows
from fedkd.types import Array
from tests.contract.toys import rows

CODEC = Int8(Int8Config())
ANY = st.floats(width=32, allow_nan=False, allow_infinity=False)


def there_and_back(original: Rows) -> Rows:
    return CODEC.decode(CODEC.encode(original))


def test_levels_by_hand() -> None:
    # From -1 to 4.1 a step is 0.02: 0.013 is nearest to level 51 (0.02), 2 is level 150.
    encoded = CODEC.encode(rows([7], [[-1, 4.1, 0.013, 2]]))
    assert encoded.arrays["values"].tolist() == [[0, 255, 51, 150]]
    assert encoded.arrays["values"].dtype == np.uint8
    np.testing.assert_allclose(encoded.arrays["low"], [-1])
    np.testing.assert_allclose(encoded.arrays["step"], [0.02], rtol=1e-6)
    np.testing.assert_allclose(CODEC.decode(encoded).values, [[-1, 4.1, 0.02, 2]], rtol=1e-5)


@given(values=arrays(np.float32, (3, 4), elements=st.one_of(ANY, st.floats(-20, 20, width=32))))
def test_the_error_of_each_row_is_bounded_and_its_ends_are_kept(values: Array) -> None:
    back = there_and_back(rows(range(3), values)).values
    exact = values.astype(np.float64)
    rounding = 2.0**-22 * np.abs(exact).max(1) + 1e-42  # of float32, down to its subnormal steps
    bound = (exact.max(1) - exact.min(1)) / 510 + rounding
    assert np.isfinite(back).all()
    assert (np.abs(back - exact) <= bound[:, None]).all()
    np.testing.assert_array_equal(back.min(1), values.min(1))
    assert (np.abs(back.max(1) - exact.max(1)) <= rounding).all()


@given(logits=arrays(np.float32, (3, 6), elements=st.floats(-60, 60, width=32)))
def test_probabilities_sum_to_one(logits: Array) -> None:
    probs = softmax(logits)
    back = there_and_back(rows(range(3), probs, kind="probs")).values
    np.testing.assert_allclose(back.sum(1), 1, rtol=1e-6)
    assert (back >= 0).all()
    # Six errors of half a step each shift the sum by at most three steps, so no value by more than three and a half.
    assert (np.abs(back - probs) <= 3.5 / 255 + 1e-6).all()


@pytest.mark.parametrize("value", [0.0, -7.25, 1e4, 3.4e38, 1e-45])
def test_constant_rows_are_exact(value: float) -> None:
    original = rows([0, 1], [[value] * 3, [0.0] * 3])
    encoded = CODEC.encode(original)
    assert encoded.arrays["step"].tolist() == [0, 0]
    np.testing.assert_array_equal(CODEC.decode(encoded).values, original.values)


def test_uniform_probabilities_are_exact() -> None:
    assert there_and_back(rows([0], [[0.25] * 4], kind="probs")).values.tolist() == [[0.25] * 4]


@pytest.mark.parametrize("kind", ["logits", "probs"])
@pytest.mark.parametrize("width", [0, 3])
def test_no_rows_are_no_bytes(kind: str, width: int) -> None:
    encoded = CODEC.encode(rows([], np.zeros((0, width)), kind=kind))
    assert encoded.nbytes == 0
    back = CODEC.decode(encoded)
    assert (len(back), back.values.shape, back.values.dtype) == (0, (0, width), np.float32)


@pytest.mark.parametrize(("n", "classes"), [(1, 10), (7, 3)])
def test_a_row_costs_a_byte_a_value_two_floats_and_the_id(n: int, classes: int) -> None:
    plain = rows(range(n), np.ones((n, classes)))
    assert CODEC.encode(plain).nbytes == n * (classes + 8 + 4)
    weighted = replace(plain, weight=np.ones(n, np.float32), columns={"score": np.zeros(n, np.float32)})
    assert CODEC.encode(weighted).nbytes == n * (classes + 8 + 4 + 4 + 4)


def test_infinity_is_clipped_to_the_largest_number_as_in_full_precision() -> None:
    largest = np.finfo(np.float32).max
    back = there_and_back(rows([0], [[np.inf, -np.inf, 0]])).values
    np.testing.assert_allclose(back[:, :2], [[largest, -largest]], rtol=1e-6)
    assert np.isfinite(back).all()


def test_nan_is_no_number_between_others_but_a_bad_reply() -> None:
    encoded = CODEC.encode(rows([0, 1], [[1.0, np.nan], [1.0, 2.0]]))
    with pytest.raises(BadReplyError, match="NaN"):
        CODEC.decode(encoded)


GOOD = CODEC.encode(rows([2, 5], [[1, 2, 3], [4, 5, 7]]))


@pytest.mark.parametrize("name", ["low", "step", "values", "ids"])
def test_a_missing_array_is_refused(name: str) -> None:
    with pytest.raises(BadReplyError, match=f"lack '{name}'"):
        CODEC.decode(Encoded(GOOD.header, {n: array for n, array in GOOD.arrays.items() if n != name}))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("values", np.zeros((2, 3), np.int8)),
        ("values", np.zeros((2, 3), np.float32)),
        ("values", np.zeros(2, np.uint8)),
        ("values", np.uint8(3)),
        ("values", np.zeros((3, 3), np.uint8)),
        ("low", np.zeros(3, np.float32)),
        ("low", np.zeros((2, 1), np.float32)),
        ("low", np.float32(0)),
        ("low", np.zeros(2, np.float64)),
        ("low", np.zeros(2, np.complex64)),
        ("low", np.array([0, np.nan], np.float32)),
        ("low", np.array([0, -np.inf], np.float32)),
        ("step", np.zeros(2, np.int32)),
        ("step", np.zeros(1, np.float32)),
        ("step", np.array([1, np.nan], np.float32)),
        ("step", np.array([np.inf, 1], np.float32)),
        ("step", np.array([1, -1], np.float32)),
        ("ids", np.zeros(3, np.int32)),
        ("ids", np.zeros(2, np.float32)),
    ],
)
def test_malformed_arrays_are_refused(name: str, array: Array) -> None:
    with pytest.raises(BadReplyError):
        CODEC.decode(Encoded(GOOD.header, {**GOOD.arrays, name: np.asarray(array)}))


def test_class_numbers_are_no_business_of_its() -> None:
    assert "hard" not in CODEC.kinds
    with pytest.raises(BadReplyError):
        CODEC.decode(Encoded({**GOOD.header, "kind": "hard"}, GOOD.arrays))


@pytest.mark.parametrize("kind", ["logits", "probs"])
@given(
    levels=arrays(np.uint8, (2, 3)),
    low=arrays(np.float32, 2, elements=ANY),
    step=arrays(np.float32, 2, elements=st.floats(0, width=32, allow_nan=False, allow_infinity=False)),
)
def test_whatever_else_a_client_sends_gives_finite_numbers(kind: str, levels: Array, low: Array, step: Array) -> None:
    arrived = {"ids": np.array([2, 5], np.int32), "values": levels, "low": low, "step": step}
    assert np.isfinite(CODEC.decode(Encoded({**GOOD.header, "kind": kind}, arrived)).values).all()


def test_probabilities_without_any_mass_are_left_for_the_border_to_refuse() -> None:
    arrived = {**GOOD.arrays, "low": np.float32([-9, 0]), "step": np.zeros(2, np.float32)}
    assert CODEC.decode(Encoded({**GOOD.header, "kind": "probs"}, arrived)).values.tolist() == [[0] * 3] * 2

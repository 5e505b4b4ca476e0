import numpy as np
import pytest

from fedkd.errors import BadReplyError
from fedkd.exchange.codec import Encoded
from fedkd.exchange.frame import decode_frame, encode_frame
from tests.contract.toys import rows


def test_identity_ids_and_values_travel_and_nothing_else() -> None:
    encoded = encode_frame(rows([2, 5], [[1, 2], [3, 4]], variant="ema"), np.zeros((2, 7), np.uint8))
    assert dict(encoded.header) == {"space": "proxy", "kind": "logits", "variant": "ema"}
    assert encoded.arrays.keys() == {"ids", "values"}
    assert encoded.arrays["ids"].dtype == np.int32
    assert encoded.arrays["values"].dtype == np.uint8  # the codec's affair


def test_weights_and_columns_travel_in_single_precision() -> None:
    made = rows([2], [[1, 2]], weight=np.array([0.5]), columns={"gap": np.array([3.0])})
    arrays = encode_frame(made, made.values).arrays
    assert {name: (array.dtype, array.tolist()) for name, array in arrays.items() if name not in {"ids", "values"}} == {
        "weight": (np.float32, [0.5]),
        "column/gap": (np.float32, [3.0]),
    }


def test_what_no_codec_turned_back_into_numbers_is_refused() -> None:
    encoded = encode_frame(rows([2], [[1, 2]]), np.zeros((1, 2), np.uint8))
    with pytest.raises(BadReplyError, match="values are uint8, expected real numbers"):
        decode_frame(encoded)


def test_an_array_that_nobody_knows_is_left_out() -> None:
    encoded = encode_frame(rows([2], [[1, 2]]), np.ones((1, 2), np.float32))
    back = decode_frame(Encoded(encoded.header, {**encoded.arrays, "more": np.zeros(9, np.float32)}))
    assert back.columns == {}


def test_supports_travel_as_whole_numbers() -> None:
    made = rows([2], [[-1, -0.5]], kind="log_probs", support=np.array([[70_000]]))
    encoded = encode_frame(made, made.values)
    assert encoded.arrays["support"].dtype == np.int32
    back = decode_frame(encoded)
    assert back.support is not None
    assert (back.support.tolist(), back.support.dtype) == ([[70_000]], np.int32)


@pytest.mark.parametrize(
    "support", [np.array([[1.0]], np.float32), np.array([[1, 2]], np.int32), np.array([1], np.int32)]
)
def test_a_garbled_support_is_refused(support: np.ndarray) -> None:
    encoded = encode_frame(rows([2], [[-1, -0.5]], kind="log_probs"), np.ones((1, 2), np.float32))
    with pytest.raises(BadReplyError, match="support"):
        decode_frame(Encoded(encoded.header, {**encoded.arrays, "support": support}))


def test_a_support_of_logits_is_refused() -> None:
    encoded = encode_frame(rows([2], [[-1, -0.5]]), np.ones((1, 2), np.float32))
    with pytest.raises(BadReplyError, match="of log_probs"):
        decode_frame(Encoded(encoded.header, {**encoded.arrays, "support": np.array([[1]], np.int32)}))

"""What every codec in the table must keep, for every kind of rows that it accepts."""

import json

import numpy as np
import pytest

from fedkd.errors import BadReplyError
from fedkd.exchange import CODECS
from fedkd.exchange.codec import Codec, Encoded
from fedkd.experiment import Experiment
from fedkd.federation.wire import load_arrays, save_arrays
from fedkd.functional.aggregation import softmax
from fedkd.lookup import resolve
from fedkd.rows import KINDS, Rows

pytestmark = pytest.mark.parametrize("name", CODECS)


def codec_of(name: str) -> Codec:
    cls = resolve(CODECS, name, what="codec")
    made: Codec = cls(cls.Config())
    return made


def sample(kind: str, *, size: int = 6, classes: int = 5) -> Rows:
    rng = np.random.default_rng(0)
    values = rng.normal(scale=3.0, size=(size, classes)).astype(np.float32)
    if kind == "probs":
        values = softmax(values)
    elif kind == "hard":
        values = rng.integers(0, classes, (size, 1)).astype(np.int32)
    ids = np.sort(rng.choice(1000, size, replace=False)).astype(np.int64)
    return Rows(
        space="proxy",
        kind=kind,  # type: ignore[arg-type]
        variant="second",
        ids=ids,
        values=values,
        weight=rng.random(size).astype(np.float32),
        columns={"score": rng.random(size).astype(np.float32)},
    )


def test_the_entry_is_final_and_its_config_frozen(name: str) -> None:
    cls = resolve(CODECS, name, what="codec")
    assert issubclass(cls, Codec)
    assert cls.__final__
    assert cls.Config.__dataclass_params__.frozen
    assert cls.kinds
    assert cls.kinds <= KINDS


@pytest.mark.parametrize("group", ["codec", "downlink"])
def test_config_round_trip(name: str, group: str) -> None:
    first = Experiment.build({f"{group}.name": name})
    again = Experiment.build(first.flat())
    assert getattr(again, group).config == getattr(first, group).config == codec_of(name).Config()


@pytest.mark.parametrize("size", [0, 1, 6])
def test_accepted_kinds_round_trip(name: str, size: int) -> None:
    codec = codec_of(name)
    for kind in sorted(codec.kinds):
        original = sample(kind, size=size)
        back = codec.decode(codec.encode(original))
        assert back.stream == original.stream
        np.testing.assert_array_equal(back.ids, original.ids)
        assert (back.ids.dtype, back.values.dtype) == (np.int64, original.values.dtype)
        assert back.values.shape == original.values.shape
        assert back.weight is not None
        np.testing.assert_allclose(back.weight, original.weight, atol=0.01)
        np.testing.assert_allclose(back.columns["score"], original.columns["score"], atol=0.01)
        if kind != "score":
            np.testing.assert_array_equal(back.values.argmax(1), original.values.argmax(1))
        twice = codec.decode(codec.encode(back))
        np.testing.assert_allclose(twice.values, back.values, rtol=1e-5, atol=1e-6)  # rounding once is enough


def test_what_is_encoded_travels_and_is_counted(name: str) -> None:
    codec = codec_of(name)
    for kind in sorted(codec.kinds):
        encoded = codec.encode(sample(kind))
        header, arrays = load_arrays(save_arrays(encoded.header, encoded.arrays))
        assert header == json.loads(json.dumps(dict(encoded.header)))
        assert encoded.nbytes == sum(array.nbytes for array in arrays.values()) > 0
        travelled = codec.decode(Encoded(header, arrays))
        np.testing.assert_array_equal(travelled.values, codec.decode(encoded).values)
        assert travelled.values.flags.writeable  # torch takes it without a copy


def test_what_lacks_a_part_is_a_bad_reply(name: str) -> None:
    codec = codec_of(name)
    encoded = codec.encode(sample(sorted(codec.kinds)[0]))
    with pytest.raises(BadReplyError):
        codec.decode(Encoded({}, encoded.arrays))
    with pytest.raises(BadReplyError):
        codec.decode(Encoded(encoded.header, {}))
    with pytest.raises(BadReplyError):
        codec.decode(Encoded(encoded.header, {**encoded.arrays, "ids": np.zeros(2, np.int32)}))


def test_supports_travel_whole(name: str) -> None:
    codec = codec_of(name)
    if "log_probs" not in codec.kinds:
        return
    values = np.log([[0.5, 0.3, 0.2], [0.25, 0.25, 0.5]]).astype(np.float32)
    original = Rows(
        space="proxy",
        kind="log_probs",
        ids=np.array([1, 4]),
        values=values,
        support=np.array([[0, 9], [2, 3]], np.int32),
    )
    back = codec.decode(codec.encode(original))
    np.testing.assert_array_equal(back.support, original.support)
    np.testing.assert_allclose(back.values, values, atol=0.01)

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.errors import BadReplyError
from fedkd.exchange.extras import EXTRAS, Acceptance, Record, Shape, Subnet, Triples, extra_of, record_of, records_of
from fedkd.lookup import resolve
from fedkd.rows import Extra, Share

EXAMPLES: dict[str, Record] = {
    "acceptance": Acceptance(accepted=3, rejected=2),
    "triples": Triples(triples=(("rain", "causes", "flood"), ("a", "b", "c")), theta=0.5, counts={"causes": 7}),
    "subnet": Subnet(shapes={"": Shape(layers=(True, False)), "b0.5": Shape(layers=(), widths=(0.5, 64), budget=0.5)}),
}


def test_every_record_has_an_example_here() -> None:
    assert EXAMPLES.keys() == EXTRAS.keys()


@pytest.mark.parametrize("kind", EXTRAS)
def test_a_record_is_final_and_comes_back_through_json(kind: str) -> None:
    cls = resolve(EXTRAS, kind, what="record")
    assert cls.__final__
    assert (cls.kind, cls.__dataclass_params__.frozen) == (kind, True)
    sent = extra_of(EXAMPLES[kind])
    there = Extra.from_json(json.loads(json.dumps(sent.to_json())))
    assert record_of(there, kinds=EXTRAS) == EXAMPLES[kind]


@pytest.mark.parametrize("kind", EXTRAS)
@pytest.mark.parametrize("change", [None, "text", [1], {"a": 1}, -1, 1e300, 10**400, True, [[1, 2, 3]], [["a", "b"]]])
def test_a_garbled_field_is_a_bad_reply_or_taken(kind: str, change: Any) -> None:
    data = EXAMPLES[kind].to_json()
    refused = 0
    for name in data:
        try:
            made = record_of(Extra(kind=kind, data={**data, name: change}), kinds=EXTRAS)
        except BadReplyError:
            refused += 1
        else:
            assert type(made) is type(EXAMPLES[kind])
    assert refused >= len(data) - 1  # {"a": 1} are counts
    with pytest.raises(BadReplyError, match="has the fields"):
        record_of(Extra(kind=kind, data={**data, "more": 1}), kinds=EXTRAS)


@given(
    st.sampled_from(sorted(EXTRAS)),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    ),
    st.integers(0, 2),
)
def test_any_json_gives_a_record_or_a_bad_reply(kind: str, value: Any, at: int) -> None:
    data = EXAMPLES[kind].to_json()
    data[sorted(data)[at % len(data)]] = value
    with contextlib.suppress(BadReplyError):
        assert isinstance(record_of(Extra(kind=kind, data=data), kinds=EXTRAS), Record)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"triples": [["a", "b", "c"], ["a", "b", "c"]]}, "triples repeat"),
        ({"triples": [["a", "b", ""]]}, "no text of 1 to 1000 characters"),
        ({"triples": [["a", "b", "c" * 1001]]}, "no text of 1 to 1000 characters"),
        ({"theta": 1.5}, "theta is 1.5, expected 0 to 1"),
        ({"counts": {"causes": 2**41}}, "is no count"),
    ],
)
def test_triples_beyond_reason_are_refused(data: dict[str, Any], words: str) -> None:
    with pytest.raises(BadReplyError, match=words):
        Triples.from_json({**EXAMPLES["triples"].to_json(), **data})


def test_what_a_peer_names_is_never_imported() -> None:
    with pytest.raises(BadReplyError, match="record is of kind 'antigravity:x', expected acceptance or subnet"):
        record_of(Extra(kind="antigravity:x", data={}), kinds={"subnet", "acceptance"})


def test_a_record_of_outside_code_joins_by_its_path() -> None:
    kind = "fedkd.exchange.extras:Acceptance"
    made = record_of(Extra(kind=kind, data={"accepted": 1, "rejected": 0}), kinds={kind})
    assert made == Acceptance(accepted=1)


def test_records_of_one_kind_are_found_among_shares() -> None:
    extras = [extra_of(EXAMPLES["triples"]), None, extra_of(EXAMPLES["acceptance"])]
    shares = [Share(client_id=i, round_id=0, extra=extra) for i, extra in enumerate(extras)]
    assert records_of(shares, Acceptance) == [Acceptance(accepted=3, rejected=2)]
    assert Acceptance.total(records_of(shares, Acceptance) * 2) == Acceptance(accepted=6, rejected=4)

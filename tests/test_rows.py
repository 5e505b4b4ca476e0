from typing import Any

import numpy as np
import pytest

from fedkd.rows import Extra, Knowledge, Rows, Stream, stream_of

IDS = np.array([1, 4, 7])


def made(**options: Any) -> Rows:
    defaults: dict[str, Any] = {"space": "proxy", "kind": "logits", "ids": IDS, "values": np.zeros((3, 2), np.float32)}
    return Rows(**(defaults | options))


@pytest.mark.parametrize(
    "wrong",
    [
        {"ids": np.zeros((3, 1), np.int64)},
        {"ids": np.zeros(2, np.int64)},
        {"values": np.zeros(3)},
        {"weight": np.zeros((3, 1))},
        {"weight": np.zeros(2)},
        {"columns": {"score": np.zeros((3, 1))}},
        {"columns": {"score": np.zeros(2)}},
        {"support": np.zeros((3, 1), np.int32)},  # of logits
        {"kind": "log_probs", "support": np.zeros((3, 2), np.int32)},
        {"kind": "log_probs", "support": np.zeros((2, 1), np.int32)},
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|expected"):
        made(**wrong)


@pytest.mark.parametrize("weight", [np.array([1.0, 2.0, 3.0]), np.arange(6.0).reshape(3, 2), None])
def test_a_mask_takes_weights_and_columns_along(weight: Any) -> None:
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    kept = made(values=values, weight=weight, columns={"score": np.array([0.1, 0.2, 0.3])}, variant="ema").where(
        np.array([True, False, True])
    )
    assert kept.ids.tolist() == [1, 7]
    assert kept.values.tolist() == [[0, 1], [4, 5]]
    assert kept.columns["score"].tolist() == [0.1, 0.3]
    assert (None if kept.weight is None else kept.weight.tolist()) == (
        None if weight is None else weight[[0, 2]].tolist()
    )
    assert kept.stream == ("proxy", "logits", "ema")
    assert len(made().where(np.zeros(3, np.bool_))) == 0


def test_a_client_sees_what_is_for_all_and_what_is_its_own() -> None:
    common, own, other, elsewhere = made(), made(variant="own"), made(variant="other"), made(space="class")
    nothing = made(ids=IDS[:0], values=np.zeros((0, 2)))
    knowledge = Knowledge(common=(common, elsewhere, nothing), per_client={1: (own,), 2: (other,)})
    seen = knowledge.seen_by(1)
    assert seen.rows("proxy") == (common, own)  # those for all first, empty ones left out
    assert seen.rows("class") == (elsewhere,)
    assert knowledge.seen_by(3).per_client == {}
    assert knowledge.seen_by(3).rows("proxy") == (common,)


def test_knowledge_is_empty_where_no_row_is_in_it() -> None:
    nothing = made(ids=IDS[:0], values=np.zeros((0, 2)))
    assert Knowledge().is_empty
    assert Knowledge(common=(nothing,), per_client={0: (nothing,), 1: ()}).is_empty
    assert not Knowledge(common=(made(),)).is_empty
    assert not Knowledge(per_client={0: (made(),)}).is_empty


def test_a_mask_takes_the_support_along_and_a_tree_brings_all_back() -> None:
    whole = made(kind="log_probs", support=np.array([[3], [1], [2]]), columns={"score": np.ones(3)}, weight=np.ones(3))
    kept = whole.where(np.array([True, False, True]))
    assert kept.support is not None
    assert kept.support.tolist() == [[3], [2]]
    back = Rows(**whole.to_tree())
    assert back.to_tree().keys() == whole.to_tree().keys()
    assert all(back.to_tree()[name] is value for name, value in whole.to_tree().items() if name != "columns")
    assert back.columns["score"] is whole.columns["score"]


def test_rows_belong_to_the_stream_of_their_variant_else_to_one_of_many() -> None:
    main = Stream(space="proxy", kind="logits", width=2)
    edge, budgets = (Stream(space="proxy", kind="logits", width=2, variant=v, many_variants=v == "*") for v in "e*")
    assert stream_of(made(), (budgets, main)) is main
    assert stream_of(made(variant="e"), (main, budgets, edge)) is edge
    assert stream_of(made(variant="b0.7"), (main, edge, budgets)) is budgets
    assert stream_of(made(variant="b0.7"), (main, edge)) is None
    assert stream_of(made(space="class"), (budgets,)) is None


def test_records_are_for_everyone_and_are_knowledge() -> None:
    counts = Extra(kind="acceptance", data={"accepted": 1, "rejected": 2})
    knowledge = Knowledge(per_client={1: (made(),)}, extras=(counts,))
    assert knowledge.seen_by(2).extras == (counts,)
    assert not knowledge.seen_by(2).is_empty
    assert counts.nbytes == len('["acceptance",{"accepted":1,"rejected":2}]')
    assert Extra.from_json(counts.to_json()) == counts

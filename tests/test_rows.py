from typing import Any

import numpy as np
import pytest

from fedkd.rows import Knowledge, Rows

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

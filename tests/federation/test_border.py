from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.errors import BadReplyError
from fedkd.federation.border import VALUE_LIMIT, Expected, check_share
from fedkd.rows import SHARE_SCHEMA, Extra, Rows, Share, Stream

ASKED = np.array([True, True, False, True, True, True])


def expecting(*streams: Stream, **changes: Any) -> Expected:
    plain: dict[str, Any] = {"round_id": 3, "streams": streams, "asked": ASKED, "num_classes": 2}
    return Expected(**(plain | changes))


LOGITS = Stream(space="proxy", kind="logits", width=2, many_variants=True, columns=frozenset({"gap"}))
EXPECTED = Expected(
    round_id=3, streams=(LOGITS, replace(LOGITS, kind="probs", columns=frozenset())), asked=ASKED, num_classes=2
)
BY_CLASS = expecting(Stream(space="class", kind="logits", width=2, limit=2), asked=None)


def rows(**changes: Any) -> Rows:
    plain: dict[str, Any] = {
        "space": "proxy",
        "kind": "logits",
        "ids": np.array([0, 1, 4]),
        "values": np.array([[1, -1], [2, 0], [0, VALUE_LIMIT]], np.float32),
    }
    return Rows(**(plain | changes))


def share(*every: Rows, **changes: Any) -> Share:
    return Share(**({"client_id": 7, "round_id": 3, "rows": every} | changes))


def reason(said: Share, expected: Expected = EXPECTED) -> str:
    with pytest.raises(BadReplyError) as caught:
        check_share(said, 7, expected)
    assert caught.value.client_id == 7
    return caught.value.reason


PROBS = np.array([[0.5, 0.5], [1, 0], [0.25, 0.75]], np.float32)


@pytest.mark.parametrize(
    "said",
    [
        share(),
        share(rows()),
        share(rows(ids=np.zeros(0, np.int64), values=np.zeros((0, 2), np.float32))),
        share(rows(), rows(variant="ema")),
        share(rows(kind="probs", values=PROBS)),
        share(rows(kind="probs", values=PROBS.astype(np.float16).astype(np.float32))),
        share(rows(weight=np.array([0, 0.5, 1], np.float32))),
        share(rows(weight=np.full((3, 2), 0.5, np.float32), columns={"gap": np.array([-5, 0, 1e9])})),
    ],
)
def test_a_good_share_passes(said: Share) -> None:
    assert check_share(said, 7, EXPECTED) is said


def test_rows_by_class_need_no_proxy() -> None:
    said = share(rows(space="class", ids=np.array([1]), values=np.ones((1, 2), np.float32)))
    assert check_share(said, 7, BY_CLASS) is said
    too_many = share(rows(space="class", ids=np.array([2]), values=np.ones((1, 2), np.float32)))
    assert reason(too_many, BY_CLASS).endswith("ids run from 2 to 2, expected 0 to 1")


def test_another_schema_is_refused() -> None:
    assert reason(share(schema=SHARE_SCHEMA + 1)) == f"share has schema {SHARE_SCHEMA + 1}, expected {SHARE_SCHEMA}"


@pytest.mark.parametrize("change", [{"client_id": 8}, {"round_id": 2}])
def test_a_share_for_somebody_else_is_refused(change: dict[str, int]) -> None:
    assert "the reply was due from client 7 for round 3" in reason(share(**change))


@pytest.mark.parametrize("change", [{"kind": "feature"}, {"space": "class"}])
def test_another_kind_or_space_is_refused(change: dict[str, str]) -> None:
    assert reason(share(rows(**change))).endswith("expected proxy/logits/* or proxy/probs/*")


def test_another_width_is_refused_and_says_what_to_set() -> None:
    told = reason(share(rows(values=np.zeros((3, 5), np.float32))))
    assert "values have shape (3, 5), expected (n, 2)" in told
    assert "set model.num_outputs" in told


@pytest.mark.parametrize(
    "ids",
    [
        [0, 1, 1],
        [4, 1, 0],
        [0, 4, 1],
        # Differences of far ids wrap around in 64 bits and look ascending.
        [0, 2**63 - 1, -(2**63), -1, 5],
    ],
)
def test_ids_that_repeat_or_are_not_sorted_are_refused(ids: list[int]) -> None:
    said = rows(ids=np.array(ids), values=np.zeros((len(ids), 2), np.float32))
    assert reason(share(said)).endswith("ids are not unique and ascending")


@pytest.mark.parametrize("ids", [[-1, 0, 1], [0, 1, 6]])
def test_ids_out_of_range_are_refused(ids: list[int]) -> None:
    assert reason(share(rows(ids=np.array(ids)))).endswith(f"ids run from {ids[0]} to {ids[-1]}, expected 0 to 5")


def test_rows_that_were_not_asked_for_are_refused() -> None:
    assert reason(share(rows(ids=np.array([0, 2, 4])))).endswith("rows that were not asked for")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted(bad: float) -> None:
    values = np.array([[1, bad], [0, 0], [bad, bad]], np.float32)
    assert reason(share(rows(values=values))).endswith("2 rows hold NaN or infinite values")


def test_huge_values_are_refused() -> None:
    huge = np.nextafter(np.float32(VALUE_LIMIT), np.float32(np.inf))
    assert f"more than {VALUE_LIMIT:g}" in reason(share(rows(values=np.full((3, 2), -huge))))


@pytest.mark.parametrize("first", [[0.5, 0.6], [-0.1, 1.1], [0, 0]])
def test_what_is_no_distribution_is_refused(first: list[float]) -> None:
    values = np.array([first, [0, 1], [1, 0]], np.float32)
    assert reason(share(rows(kind="probs", values=values))).endswith("negative or do not sum to one")


HARD = expecting(Stream(space="proxy", kind="hard", width=1, many_variants=True), num_classes=5)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_class_numbers_pass_in_one_column(dtype: type) -> None:
    said = share(rows(kind="hard", values=np.array([[0], [4], [2]], dtype)))
    assert check_share(said, 7, HARD) is said
    nothing = share(rows(kind="hard", ids=np.zeros(0, np.int64), values=np.zeros((0, 1), dtype)))
    assert check_share(nothing, 7, HARD) is nothing


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0], [5], [2]], np.int32),
        np.array([[0], [-1], [2]], np.int32),
        np.array([[0], [2**40], [2]], np.int64),
        np.zeros((3, 5), np.int32),
        np.zeros((3, 0), np.int32),
        np.array([[0], [1.5], [2]], np.float32),
        np.array([[0], [np.nan], [2]], np.float32),
    ],
)
def test_what_is_no_class_number_is_refused(values: np.ndarray) -> None:
    told = reason(share(rows(kind="hard", values=values)), HARD)
    assert told.endswith("hard labels are no (n, 1) class numbers from 0 to 4")


def test_class_numbers_that_were_not_asked_for_are_refused() -> None:
    said = share(rows(kind="hard", ids=np.array([0, 2, 4]), values=np.zeros((3, 1), np.int32)))
    assert reason(said, HARD).endswith("rows that were not asked for")
    assert reason(share(rows(kind="hard", values=np.zeros((3, 1), np.int32)))).endswith(
        "expected proxy/logits/* or proxy/probs/*"
    )


@pytest.mark.parametrize("bad", [-0.1, 1.5, np.nan])
def test_a_client_cannot_raise_its_voice(bad: float) -> None:
    assert reason(share(rows(weight=np.array([1, bad, 1], np.float32)))).endswith("weights are not within 0 and 1")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_columns_that_are_not_finite_are_named(bad: float) -> None:
    assert "column 'gap' holds NaN" in reason(share(rows(columns={"gap": np.array([0, bad, 0])})))


def test_variants_that_repeat_are_refused() -> None:
    assert reason(share(rows(), rows())).startswith("share has 2 sets of rows")
    assert check_share(share(rows(), rows(kind="probs", values=PROBS)), 7, EXPECTED)  # of another kind


def test_too_many_variants_are_refused() -> None:
    most = EXPECTED.max_variants
    assert check_share(share(*(rows(variant=str(number)) for number in range(most))), 7, EXPECTED)
    assert reason(share(*(rows(variant=str(number)) for number in range(most + 1)))).endswith("more than 8 variants")


def test_the_second_set_of_rows_is_checked_too() -> None:
    bad = rows(variant="ema", values=np.full((3, 2), np.nan, np.float32))
    assert reason(share(rows(), bad)).startswith("rows proxy/logits/ema: 3 rows hold")


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6))
def test_accepted_ids_can_be_looked_up(ids: list[int]) -> None:
    said = share(rows(ids=np.array(ids, np.int64), values=np.zeros((len(ids), 2), np.float32)))
    try:
        check_share(said, 7, EXPECTED)
    except BadReplyError:
        return
    assert ASKED[ids].all()


TWO_GRIDS = expecting(
    Stream(space="proxy", kind="logits", width=2),
    Stream(space="proxy", kind="score", width=1, per_sample=True),
    Stream(space="proxy", kind="logits", width=5, variant="wide"),
    Stream(space="text", kind="score", width=1),
    rows_per_sample=2,
)


def test_streams_have_widths_of_their_own() -> None:
    wide = rows(variant="wide", values=np.ones((3, 5), np.float32))
    score = rows(kind="score", ids=np.array([0, 4]), values=np.ones((2, 1), np.float32))
    said = share(rows(), wide, score)
    assert check_share(said, 7, TWO_GRIDS) is said
    assert "expected (n, 2)" in reason(share(replace(wide, variant="")), TWO_GRIDS)
    assert "expected (n, 5)" in reason(share(rows(variant="wide")), TWO_GRIDS)
    told = reason(share(rows(variant="ema")), TWO_GRIDS)
    assert told.endswith("expected proxy/logits/main or proxy/score/main or proxy/logits/wide or text/score/main")


@pytest.mark.parametrize(("ids", "told"), [([1], "no multiples of 2"), ([2], ""), ([4], ""), ([6], "expected 0 to 5")])
def test_one_row_a_sample_stands_at_its_first_position(ids: list[int], told: str) -> None:
    asked = np.array([True, True, False, True, True, False])  # a sample counts where any of its rows is asked for
    said = share(rows(kind="score", ids=np.array(ids), values=np.ones((1, 1), np.float32)))
    if told:
        assert told in reason(said, replace(TWO_GRIDS, asked=asked))
    else:
        assert check_share(said, 7, replace(TWO_GRIDS, asked=asked)) is said
    nothing = replace(TWO_GRIDS, asked=np.zeros(6, bool))
    if not told:
        assert reason(said, nothing).endswith("rows that were not asked for")


def test_hashes_of_texts_are_ids_without_a_limit() -> None:
    said = share(rows(space="text", kind="score", ids=np.array([5, 2**62]), values=np.ones((2, 1), np.float32)))
    assert check_share(said, 7, TWO_GRIDS) is said
    assert "rows outside proxy space" in reason(said, replace(TWO_GRIDS, max_free_rows=1))
    below = rows(space="text", kind="score", ids=np.array([-5, 2]), values=np.ones((2, 1), np.float32))
    assert reason(share(below), TWO_GRIDS).endswith("ids run from -5 to 2, expected 0 to any")


def test_rows_of_a_proxy_that_is_not_there_are_refused() -> None:
    assert reason(share(rows()), replace(EXPECTED, asked=None)).endswith("there is no proxy set")


def test_columns_that_nobody_asked_for_are_named() -> None:
    assert reason(share(rows(columns={"y": np.ones(3)}))).endswith("column 'y' was not asked for")


LOG_PROBS = expecting(Stream(space="proxy", kind="log_probs", width=3, has_support=True), num_classes=6)


def top(support: Any, **changes: Any) -> Rows:
    values = np.log(np.tile(np.float32([0.5, 0.25, 0.25]), (3, 1)))
    return rows(**{"kind": "log_probs", "values": values, "support": np.array(support, np.int32), **changes})


def test_supports_are_ascending_columns() -> None:
    good = [[0, 1], [2, 5], [0, 5]]
    assert check_share(share(top(good)), 7, LOG_PROBS)
    for bad in ([1, 0], [1, 1], [-1, 0], [0, 6]):
        assert "no ascending columns from 0 to 5" in reason(share(top([*good[:2], bad])), LOG_PROBS)
    assert reason(share(top(good, weight=np.ones((3, 3), np.float32))), LOG_PROBS).endswith("every row names anew")
    assert reason(share(replace(top(good), support=None)), LOG_PROBS).endswith("lack the support that is due")
    plain = expecting(Stream(space="proxy", kind="log_probs", width=3), num_classes=3)
    assert reason(share(top([[0, 1]] * 3)), plain).endswith("a support that nobody expects")


def test_log_probabilities_are_not_above_zero() -> None:
    said = top([[0, 1]] * 3, values=np.full((3, 3), 0.1, np.float32))
    assert reason(share(said), LOG_PROBS).endswith("log-probabilities reach 0.1, more than 0")


COUNTS = Extra(kind="acceptance", data={"accepted": 3, "rejected": 1})


def test_a_record_that_is_expected_passes() -> None:
    said = share(extra=COUNTS)
    assert check_share(said, 7, replace(EXPECTED, extras=frozenset({"acceptance"}))) is said
    assert reason(said) == "record is of kind 'acceptance', expected none"


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        (Extra(kind="os:system", data={}), "record is of kind 'os:system', expected acceptance"),
        (Extra(kind="acceptance", data={"accepted": 3}), "acceptance has the fields ['accepted']"),
        (Extra(kind="acceptance", data={"accepted": -1, "rejected": 0}), "-1 is no count"),
        (Extra(kind="acceptance", data={"accepted": True, "rejected": 0}), "True is no count"),
    ],
)
def test_a_record_that_is_none_is_refused(extra: Extra, told: str) -> None:
    assert told in reason(share(extra=extra), replace(EXPECTED, extras=frozenset({"acceptance"})))


def test_texts_are_bounded_all_together() -> None:
    short = replace(EXPECTED, extras=frozenset({"acceptance"}), max_text_bytes=60)
    assert check_share(share(rows(variant="v" * 15), extra=COUNTS), 7, short)
    assert COUNTS.nbytes == len('["acceptance",{"accepted":3,"rejected":1}]') == 42
    said = share(rows(variant="v" * 15), extra=COUNTS, metrics={"loss": 1.0})
    assert reason(said, short) == "share holds 61 bytes of text, more than 60"

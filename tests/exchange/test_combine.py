from typing import Any

import numpy as np
import pytest

from fedkd.exchange.combine import HOW, VOTERS, by_stream, combine, masked_mean, merge_variants
from fedkd.functional.aggregation import LOG_FLOOR
from fedkd.rows import Rows, Share


def rows(ids: list[int], values: list[list[float]], **options: Any) -> Rows:
    matrix = np.array(values, np.float32).reshape(len(ids), -1) if ids else np.zeros((0, 2), np.float32)
    if options.get("weight") is not None:
        options["weight"] = np.array(options["weight"], np.float32)
    return Rows(**({"space": "proxy", "kind": "logits", "ids": np.array(ids, np.int64), "values": matrix} | options))


A = rows([0, 2], [[1, 2], [3, 4]])
B = rows([2, 5], [[5, 8], [7, 7]])
NOTHING = rows([], [])


def test_ragged_uploads_by_hand() -> None:
    mean = masked_mean([A, B])
    assert mean.ids.tolist() == [0, 2, 5]  # 1, 3 and 4 are absent, not zero
    assert mean.values.tolist() == [[1, 2], [4, 6], [7, 7]]
    assert mean.columns[VOTERS].tolist() == [1, 2, 1]
    assert (mean.values.dtype, mean.ids.dtype, mean.weight) == (np.float32, np.int64, None)


def test_an_empty_upload_changes_nothing() -> None:
    with_empty, without = masked_mean([A, NOTHING, B]), masked_mean([A, B])
    np.testing.assert_array_equal(with_empty.values, without.values)
    np.testing.assert_array_equal(with_empty.columns[VOTERS], without.columns[VOTERS])
    assert len(masked_mean([NOTHING])) == 0


def test_weights_of_rows_by_hand() -> None:
    mean = masked_mean(
        [rows([0, 2], [[1, 2], [3, 4]], weight=[1, 0.25]), rows([2, 5], [[5, 8], [7, 7]], weight=[0.75, 1])]
    )
    assert mean.values.tolist() == [[1, 2], [4.5, 7], [7, 7]]
    assert mean.columns[VOTERS].tolist() == [1, 2, 1]


def test_no_weight_counts_as_one() -> None:
    mean = masked_mean([rows([2], [[3, 4]]), rows([2], [[6, 10]], weight=[0.5])])
    np.testing.assert_allclose(mean.values, [[(3 + 3) / 1.5, (4 + 5) / 1.5]])


def test_weights_of_rows_and_classes_by_hand() -> None:
    mean = masked_mean([rows([4], [[3, 4]], weight=[[1, 0]]), rows([4], [[6, 8]], weight=[[0.5, 0.5]])])
    assert mean.values.tolist() == [[4, 8]]


def test_both_shapes_of_weight_mix() -> None:
    mean = masked_mean([rows([4], [[3, 4]], weight=[0.5]), rows([4], [[6, 8]], weight=[[0.25, 0.0]])])
    assert mean.values.tolist() == [[4, 4]]


def test_where_all_weights_are_zero_the_plain_mean_stands() -> None:
    mean = masked_mean([rows([0, 1], [[1, 2], [3, 4]], weight=[0, 1]), rows([0, 1], [[3, 6], [5, 8]], weight=[0, 0])])
    assert mean.values.tolist() == [[2, 4], [3, 4]]
    entry = masked_mean([rows([0], [[1, 2]], weight=[[1, 0]]), rows([0], [[3, 6]], weight=[[0, 0]])])
    assert entry.values.tolist() == [[1, 4]]


def test_the_smallest_weight_still_counts() -> None:
    tiny = float(np.finfo(np.float32).smallest_subnormal)
    mean = masked_mean([rows([0], [[0.5, -3]], weight=[tiny]), rows([0], [[9, 9]], weight=[0])])
    assert mean.values.tolist() == [[0.5, -3]]


def test_class_wise_weighted_probabilities_sum_to_one() -> None:
    mean = masked_mean(
        [
            rows([0], [[0.9, 0.1]], kind="probs", weight=[[1, 0.5]]),
            rows([0], [[0.4, 0.6]], kind="probs", weight=[[0.5, 1]]),
        ]
    )
    raw = np.array([(0.9 + 0.2) / 1.5, (0.05 + 0.6) / 1.5])
    np.testing.assert_allclose(mean.values[0], raw / raw.sum(), rtol=1e-6)


def test_probabilities_heard_only_where_they_are_zero_fall_back_to_the_plain_mean() -> None:
    mean = masked_mean(
        [
            rows([0, 1], [[0, 1], [0.5, 0.5]], kind="probs", weight=[[1, 0], [1, 1]]),
            rows([0], [[1, 0]], kind="probs", weight=[[0, 1]]),
        ]
    )
    assert mean.values.tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_logits_are_never_scaled() -> None:
    mean = masked_mean([rows([0], [[2, 4]], weight=[[1, 0.5]])])
    assert mean.values.tolist() == [[2, 4]]


@pytest.mark.parametrize(("field", "value"), [("space", "class"), ("kind", "feature"), ("variant", "ema")])
def test_the_stream_is_kept(field: str, value: str) -> None:
    assert getattr(masked_mean([rows([1], [[1, 2]], **{field: value})]), field) == value


def test_shares_are_grouped_by_what_can_be_combined() -> None:
    view = rows([3], [[1, 1]], variant="ema")
    shares = [
        Share(client_id=0, round_id=0, rows=(A, view)),
        Share(client_id=1, round_id=0),
        Share(client_id=2, round_id=0, rows=(NOTHING,)),
        Share(client_id=3, round_id=0, rows=(B,)),
    ]
    assert by_stream(shares) == {("proxy", "logits", ""): [A, B], ("proxy", "logits", "ema"): [view]}
    assert by_stream(shares[1:3]) == {}


def test_a_class_that_nobody_owns_is_marked_by_a_weight_of_zero() -> None:
    mean = masked_mean(
        [
            rows([0, 1], [[1, 2, 3], [4, 5, 6]], weight=[[1, 0, 0], [1, 1, 1]]),
            rows([0], [[3, 4, 5]], weight=[[0, 1, 0]]),
        ]
    )
    assert mean.values.tolist() == [[1, 4, 4], [4, 5, 6]]  # the 4 under class 2 means nothing
    assert mean.weight is not None
    assert mean.weight.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert mean.weight.dtype == np.float32


@pytest.mark.parametrize("how", HOW)
def test_where_all_is_owned_or_nothing_is_there_is_no_weight(how: str) -> None:
    assert combine([rows([0], [[1, 2]], weight=[[0.5, 1]])], how).weight is None
    assert combine([rows([0], [[1, 2]], weight=[[0, 0]])], how).weight is None
    assert combine([rows([0], [[1, 2]], weight=[0])], how).weight is None
    marked = combine([rows([0], [[1, 2]], weight=[[0, 1]])], how).weight
    assert marked is not None
    assert marked.tolist() == [[0, 1]]


def test_columns_that_all_have_are_weighed_as_the_rows_are() -> None:
    first = rows([0, 1], [[1, 2], [3, 4]], weight=[1, 0.5], columns={"gap": np.float32([2, 4]), "own": np.ones(2)})
    second = rows([1], [[3, 4]], weight=[0.25], columns={"gap": np.float32([10])})
    assert combine([first, NOTHING, second]).columns.keys() == {"gap", VOTERS}
    assert combine([first, second]).columns["gap"].tolist() == [2, 6]
    assert combine([first, second], "median").columns["gap"].tolist() == [2, 7]
    assert combine([first, second], "best").columns["gap"].tolist() == [2, 4]


def test_log_probabilities_come_out_normalised_and_floored() -> None:
    p, q = np.array([0.9, 0.1]), np.array([0.2, 0.8])
    both = [rows([0], [np.log(p)], kind="log_probs"), rows([0], [np.log(q)], kind="log_probs")]
    geometric = np.sqrt(p * q)
    np.testing.assert_allclose(np.exp(combine(both).values[0]), geometric / geometric.sum(), rtol=1e-6)
    alone = rows([0], [[0, -500]], kind="log_probs")
    for how in HOW:
        assert combine([alone], how).values.tolist() == [[0, LOG_FLOOR]]


def test_rows_of_two_widths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[2, 3\] columns wide"):
        combine([A, rows([0], [[1, 2, 3]])])


def test_variants_of_a_client_are_one_voice() -> None:
    share = Share(
        client_id=0,
        round_id=0,
        rows=(
            rows([0, 2], [[1, 2], [3, 4]], variant="small", weight=[1, 0.5], columns={"gap": np.float32([1, 2])}),
            rows([2, 5], [[5, 6], [7, 8]], variant="large", columns={"gap": np.float32([4, 5])}),
            rows([1], [[1, 1]], kind="feature", variant="small"),
            NOTHING,
        ),
    )
    merged, feature = merge_variants(share).rows
    assert merged.stream == ("proxy", "logits", "")
    assert merged.ids.tolist() == [0, 2, 5]
    np.testing.assert_allclose(merged.values, [[1, 2], [(1.5 + 5) / 1.5, (2 + 6) / 1.5], [7, 8]], rtol=1e-6)
    assert merged.weight is not None
    assert merged.weight.tolist() == [1, 0.75, 1]
    assert merged.columns.keys() == {"gap"}
    assert feature.stream == ("proxy", "feature", "")
    other = Share(client_id=1, round_id=0, rows=(rows([2], [[0, 0]]),))
    (spoken,) = [
        found for stream, found in by_stream(map(merge_variants, (share, other))).items() if "logits" in stream
    ]
    assert combine(spoken).columns[VOTERS].tolist() == [1, 2, 1]


def test_class_wise_weights_of_variants_are_averaged_too() -> None:
    every = (rows([0], [[1, 2]], variant="a", weight=[[1, 0]]), rows([0], [[3, 4]], variant="b", weight=[0.5]))
    (merged,) = merge_variants(Share(client_id=0, round_id=0, rows=every)).rows
    assert merged.weight is not None
    assert merged.weight.tolist() == [[0.75, 0.25]]

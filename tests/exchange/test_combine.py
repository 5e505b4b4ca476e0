from typing import Any

import numpy as np
import pytest

from fedkd.exchange.combine import VOTERS, by_stream, masked_mean
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

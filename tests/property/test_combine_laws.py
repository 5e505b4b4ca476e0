"""Laws of the row-wise weighted mean."""

import random
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedkd.exchange.combine import VOTERS, by_stream, masked_mean
from fedkd.rows import Rows, Share
from fedkd.types import Array

VALUES = st.floats(-1e3, 1e3, width=32)
WEIGHTS = st.floats(0, 1, width=32)


@st.composite
def spoken(draw: st.DrawFn, weights: st.SearchStrategy[float] = WEIGHTS) -> list[Rows]:
    """What up to four clients say about some of seven ids, three columns; some have nothing to say."""
    every = []
    for _ in range(draw(st.integers(1, 4))):
        ids = np.array(sorted(draw(st.sets(st.integers(0, 6)))), np.int64)
        values: Array = draw(arrays(np.float32, (len(ids), 3), elements=VALUES))
        shape = draw(st.sampled_from([None, (len(ids),), (len(ids), 3)]))
        weight = None if shape is None else draw(arrays(np.float32, shape, elements=weights))
        every.append(Rows(space="proxy", kind="logits", ids=ids, values=values, weight=weight))
    return every


@given(every=spoken(), order=st.randoms(use_true_random=False))
def test_the_order_of_clients_is_irrelevant(every: list[Rows], order: random.Random) -> None:
    mean = masked_mean(every)
    shares = [Share(client_id=i, round_id=0, rows=(rows,)) for i, rows in enumerate(every)]
    order.shuffle(shares)
    shuffled = masked_mean([share.rows[0] for share in shares])
    np.testing.assert_allclose(shuffled.values, mean.values, rtol=1e-6, atol=1e-9)  # but for the last bit
    np.testing.assert_array_equal(shuffled.columns[VOTERS], mean.columns[VOTERS])
    streams = by_stream(sorted(shares, key=lambda share: share.client_id))
    again = [masked_mean(rows) for rows in streams.values()]
    assert [rows.values.tobytes() for rows in again] == ([mean.values.tobytes()] if len(mean) else [])


@given(every=spoken(weights=st.floats(2**-20, 1, width=32)), data=st.data())
def test_equal_inputs_come_back_unchanged(every: list[Rows], data: st.DataObject) -> None:
    truth: Array = data.draw(arrays(np.float32, (7, 3), elements=VALUES))
    mean = masked_mean([replace(rows, values=truth[rows.ids]) for rows in every])
    np.testing.assert_array_equal(mean.values, truth[mean.ids])


@given(every=spoken(), shift=arrays(np.float32, 3, elements=VALUES))
def test_shifting_all_inputs_shifts_the_output(every: list[Rows], shift: Array) -> None:
    moved = masked_mean([replace(rows, values=rows.values + shift) for rows in every])
    np.testing.assert_allclose(moved.values, masked_mean(every).values + shift, rtol=1e-5, atol=1e-3)


@given(every=spoken())
def test_an_id_is_there_exactly_if_somebody_spoke_for_it(every: list[Rows]) -> None:
    mean = masked_mean(every)
    assert mean.ids.tolist() == sorted({int(i) for rows in every for i in rows.ids})
    counts = [sum(int(i) in rows.ids for rows in every) for i in mean.ids]
    assert mean.columns[VOTERS].tolist() == counts


@given(every=spoken())
def test_the_mean_lies_between_what_was_said(every: list[Rows]) -> None:
    mean = masked_mean(every)
    for i, row in zip(mean.ids, mean.values, strict=True):
        said = np.stack([rows.values[rows.ids == i][0] for rows in every if i in rows.ids])
        assert (said.min(0) - 1e-4 <= row).all()
        assert (row <= said.max(0) + 1e-4).all()


@given(every=spoken(weights=st.floats(2**-20, 1, width=32)))
def test_halving_all_weights_changes_nothing(every: list[Rows]) -> None:
    weighted = [
        replace(rows, weight=np.ones(len(rows), np.float32) if rows.weight is None else rows.weight) for rows in every
    ]
    halved = [replace(rows, weight=rows.weight / 2) for rows in weighted if rows.weight is not None]
    np.testing.assert_array_equal(masked_mean(halved).values, masked_mean(weighted).values)

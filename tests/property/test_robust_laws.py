"""Laws of the rules of combination beside the mean."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedkd.exchange.combine import HOW, VOTERS, combine
from fedkd.functional.aggregation import log_normalise, softmax
from fedkd.functional.supports import top_support
from fedkd.rows import Rows
from fedkd.types import Array

VALUES = st.floats(-1e3, 1e3, width=32)
IDS = 5
COLUMNS = 4


@st.composite
def spoken(draw: st.DrawFn, kind: str = "logits", *, low: int = 1, most: float = 1e3) -> list[Rows]:
    """What some clients say about some of the ids; weights are absent, or differ between clients."""
    every = []
    for client in range(draw(st.integers(low, 5))):
        ids = np.array(sorted(draw(st.sets(st.integers(0, IDS - 1)))), np.int64)
        values: Array = draw(arrays(np.float32, (len(ids), COLUMNS), elements=st.floats(-most, most, width=32)))
        weight = draw(st.sampled_from([None, np.full(len(ids), 0.1 + 0.15 * client, np.float32)]))
        support = None
        if kind == "probs":
            values = softmax(values)
        elif kind == "log_probs":
            values, support = top_support(log_normalise(values), 2)
        every.append(
            Rows(
                space="proxy",
                kind=kind,  # type: ignore[arg-type]
                ids=ids,
                values=values,
                weight=weight,
                support=support,
            )
        )
    return every


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs"])
@given(data=st.data(), order=st.randoms(use_true_random=False))
def test_the_order_of_clients_is_irrelevant(how: str, kind: str, data: st.DataObject, order: random.Random) -> None:
    every = data.draw(spoken(kind, most=20))
    if how == "best":  # of equals the first has the word: let there be none
        every = [replace(r, weight=np.full(len(r), 0.1 + 0.1 * i, np.float32)) for i, r in enumerate(every)]
    made = combine(every, how, num_columns=6 if kind == "log_probs" else None)
    order.shuffle(every)
    again = combine(every, how, num_columns=6 if kind == "log_probs" else None)
    np.testing.assert_array_equal(again.ids, made.ids)
    np.testing.assert_array_equal(again.columns[VOTERS], made.columns[VOTERS])
    if kind != "log_probs":  # a support may choose otherwise among columns that rounding alone tells apart
        np.testing.assert_allclose(again.values, made.values, rtol=1e-6, atol=1e-9)
        if how != "mean":
            assert again.values.tobytes() == made.values.tobytes()
    np.testing.assert_allclose(np.sort(again.values), np.sort(made.values), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", HOW)
@given(every=spoken(), data=st.data())
def test_equal_inputs_come_back_unchanged(how: str, every: list[Rows], data: st.DataObject) -> None:
    truth: Array = data.draw(arrays(np.float32, (IDS, COLUMNS), elements=VALUES))
    made = combine([replace(rows, values=truth[rows.ids]) for rows in every], how)
    np.testing.assert_array_equal(made.values, truth[made.ids])


@pytest.mark.parametrize("how", HOW)
@given(every=spoken())
def test_an_id_is_there_exactly_if_somebody_spoke_for_it(how: str, every: list[Rows]) -> None:
    made = combine(every, how)
    assert made.ids.tolist() == sorted({int(i) for rows in every for i in rows.ids})
    assert made.columns[VOTERS].tolist() == [sum(int(i) in rows.ids for rows in every) for i in made.ids]


@pytest.mark.parametrize("how", HOW)
@given(every=spoken())
def test_the_answer_lies_between_what_was_said(how: str, every: list[Rows]) -> None:
    made = combine(every, how)
    for i, row in zip(made.ids, made.values, strict=True):
        said = np.stack([rows.values[rows.ids == i][0] for rows in every if i in rows.ids])
        assert (said.min(0) - 1e-4 <= row).all()
        assert (row <= said.max(0) + 1e-4).all()


@pytest.mark.parametrize("how", ["median", "trimmed"])
@given(
    honest=st.integers(2, 6).flatmap(lambda m: arrays(np.float32, (m, 3, COLUMNS), elements=VALUES)),
    lie=arrays(np.float32, (3, COLUMNS), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    at=st.integers(0, 6),
)
def test_one_liar_among_three_or_more_is_ignored(how: str, honest: Array, lie: Array, at: int) -> None:
    said = np.insert(honest, min(at, len(honest)), lie, axis=0)
    every = [Rows(space="proxy", kind="logits", ids=np.arange(3), values=values) for values in said]
    made = combine(every, how).values
    assert (made >= np.nextafter(honest.min(0), np.float32(-np.inf))).all()
    assert (made <= np.nextafter(honest.max(0), np.float32(np.inf))).all()


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", ["probs", "log_probs"])
@given(data=st.data())
def test_a_distribution_comes_out(how: str, kind: str, data: st.DataObject) -> None:
    made = combine(data.draw(spoken(kind, most=20)), how, num_columns=6 if kind == "log_probs" else None)
    probs = np.exp(made.values) if kind == "log_probs" else made.values
    np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-5)


@given(every=spoken(), data=st.data())
def test_the_loudest_is_taken_at_its_word(every: list[Rows], data: st.DataObject) -> None:
    loudness = data.draw(st.permutations(range(1, len(every) + 1)))
    weighted = [
        replace(rows, weight=np.full(len(rows), 0.1 * loud, np.float32))
        for rows, loud in zip(every, loudness, strict=True)
    ]
    made = combine(weighted, "best")
    for i, row in zip(made.ids, made.values, strict=True):
        speaker = max((loud, at) for at, loud in enumerate(loudness) if i in every[at].ids)[1]
        np.testing.assert_array_equal(row, every[speaker].values[every[speaker].ids == i][0])

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedkd import metric_names as m
from fedkd.exchange.codec import Codec
from fedkd.exchange.float_codecs import Float16, Float32, FloatConfig
from fedkd.exchange.int8 import Int8, Int8Config
from fedkd.federation.border import Expected
from fedkd.federation.traffic import SelectionTally
from fedkd.rows import Extra, Rows, Share, Stream
from tests.contract.toys import rows

ASKED = np.array([True] * 4 + [False] * 2 + [True] * 2)
LOGITS = Stream(space="proxy", kind="logits", width=3, many_variants=True, columns=frozenset({"gap"}))
EXPECTED = Expected(round_id=0, streams=(LOGITS,), asked=ASKED, num_classes=3, rows_per_sample=2)


def said(*every: Rows, extra: Extra | None = None) -> Share:
    return Share(client_id=0, round_id=0, rows=every, extra=extra)


def unselected(*shares: Share, expected: Expected = EXPECTED, codec: Codec | None = None) -> int:
    tally = SelectionTally(expected, codec or Float32(FloatConfig()))
    for share in shares:
        tally.add(share)
    found = tally.numbers()
    assert found[m.SELECTED_ROWS] == sum(len(each) for share in shares for each in share.rows)
    bytes_: int = found[m.UNSELECTED_BYTES]
    return bytes_


@pytest.mark.parametrize(
    ("codec", "row"), [(Float32(FloatConfig()), 12), (Float16(FloatConfig()), 6), (Int8(Int8Config()), 3 + 8)]
)
def test_every_row_that_was_asked_for_by_hand(codec: Codec, row: int) -> None:
    one = rows([0], [[1, 2, 3]], columns={"gap": np.ones(1)})
    assert unselected(said(one), codec=codec) == 6 * (4 + row + 4)  # six of eight asked; id, values, column
    assert unselected(said(), codec=codec) == 6 * (4 + row + 4)  # whoever is silent could have spoken
    both = said(one, replace(one, variant="ema"))
    assert unselected(both, said(one), codec=codec) == 3 * 6 * (4 + row + 4)


def test_it_is_what_an_unselected_share_takes() -> None:
    whole = rows(np.flatnonzero(ASKED), np.ones((6, 3)), columns={"gap": np.ones(6)})
    assert unselected(said()) == Float32(FloatConfig()).encode(whole).nbytes


def test_each_stream_has_a_size_of_its_own() -> None:
    streams = (
        Stream(space="proxy", kind="score", width=1, per_sample=True),
        Stream(space="proxy", kind="log_probs", width=3, has_support=True),
        Stream(space="class", kind="logits", width=3, limit=5),
        Stream(space="text", kind="score", width=1),
        Stream(space="proxy", kind="hard", width=1),
    )
    hashed = rows([7, 2**40], [[1], [2]], kind="score", space="text")
    extra = Extra(kind="acceptance", data={"accepted": 1})
    found = unselected(said(hashed, extra=extra), expected=replace(EXPECTED, streams=streams))
    assert found == 3 * 8 + 6 * (4 + 12 + 8) + 5 * 16 + 2 * 8 + 6 * 8 + extra.nbytes


def test_without_a_proxy_or_a_question_nothing_could_be_said() -> None:
    assert unselected(said(), expected=replace(EXPECTED, asked=None)) == 0
    assert unselected(said(), expected=replace(EXPECTED, asked=np.zeros(8, bool))) == 0


def test_an_excerpt_is_no_part_of_an_unselected_share() -> None:
    edge = replace(LOGITS, variant="edge", many_variants=False)
    body = replace(edge, variant="body", is_excerpt=True)
    expected = replace(EXPECTED, streams=(edge, body))
    parts = said(rows([0], [[1, 2, 3]], variant="edge"), rows([2], [[1, 2, 3]], variant="body"))
    assert unselected(parts, expected=expected) == unselected(parts, expected=replace(EXPECTED, streams=(edge,)))

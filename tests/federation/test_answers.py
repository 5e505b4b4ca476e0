from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedkd.errors import QuorumError
from fedkd.exchange.float_codecs import Float32, FloatConfig
from fedkd.federation.answers import Answers
from fedkd.federation.border import Expected
from fedkd.federation.fleet import CohortReply, read_reply
from fedkd.federation.messages import ClientFailure, RoundResult
from fedkd.federation.store import StateRef
from fedkd.federation.wire import DTYPES, Bundle, Parcel, pack
from fedkd.rows import Rows, Share, Stream

CODEC = Float32(FloatConfig())
EXPECTED = Expected(
    round_id=3,
    streams=(Stream(space="proxy", kind="logits", width=2),),
    asked=np.ones(5, bool),
    num_classes=2,
    tables={"confusion": (2, 2)},
)
KEPT = StateRef("round-000001/kept", "k" * 32)


def ref(client_id: int) -> StateRef:
    return StateRef("", f"{client_id:032d}")


def answer(client_id: int, *, value: float = 0.0, confusion: Any = None) -> Parcel:
    rows = Rows(space="proxy", kind="logits", ids=np.array([0, 2]), values=np.full((2, 2), value, np.float32))
    share = Share(client_id=client_id, round_id=3, rows=(rows,))
    tables = {} if confusion is None else {"confusion": confusion}
    return RoundResult(share=share, ref=ref(client_id), tables=tables).to_parcel(CODEC)


def garbled(client_id: int, change: Callable[[Parcel], object]) -> Parcel:
    parcel = answer(client_id)
    change(parcel)
    return parcel


def collect(*replies: CohortReply) -> Answers:
    return read(*replies)[0]


def read(*replies: CohortReply, clients: Collection[int] = range(10)) -> tuple[Answers, list[Share]]:
    answers = Answers()
    return answers, list(answers.arrivals(replies, clients=clients, codec=CODEC, expected=EXPECTED))


def test_replies_are_sorted_into_good_failed_and_rejected() -> None:
    process = Parcel({"process": {"pid": 4, "peak_rss_bytes": 900}})
    first = CohortReply(process, {0: answer(0), 1: ClientFailure(1, "raised", KEPT)}, header_bytes=100)
    second = CohortReply(Parcel(), {2: answer(2, value=np.nan), 3: ClientFailure(3, "late")}, header_bytes=10)
    answers = collect(first, second)
    answers.add_missing(range(5), reason="silent")
    assert answers.good.keys() == {0}
    assert answers.failures == {1: "raised", 3: "late", 4: "silent"}
    assert answers.rejected == {2: "rows proxy/logits/main: 2 rows hold NaN or infinite values"}
    assert answers.refs == {0: ref(0), 1: KEPT, 2: ref(2)}
    assert answers.uplink == {0: 2 * (2 * 4 + 4), 2: 24}
    assert (answers.header_bytes, answers.peaks) == (110, {4: 900})


def test_a_client_whose_share_cannot_be_read_has_trained_all_the_same() -> None:
    answers = collect(CohortReply(Parcel(), {1: garbled(1, lambda parcel: parcel.header.pop("rows"))}))
    assert answers.rejected == {1: "round reply lacks or garbles 'rows'"}
    assert answers.refs == {1: ref(1)}
    assert answers.uplink == {1: 24}


def test_a_reply_without_a_state_reference_leaves_the_old_one() -> None:
    answers = collect(CohortReply(Parcel(), {1: garbled(1, lambda parcel: parcel.header.update(ref=3))}))
    assert answers.rejected.keys() == {1}
    assert answers.refs == {}


@pytest.mark.parametrize("table", [np.eye(3, dtype=np.int64), np.eye(2), np.zeros(4, np.int64)])
def test_a_confusion_of_another_shape_or_type_is_rejected(table: np.ndarray) -> None:
    assert collect(CohortReply(Parcel(), {1: answer(1, confusion=np.eye(2, dtype=np.int64))})).good.keys() == {1}
    assert "confusion has shape" in collect(CohortReply(Parcel(), {1: answer(1, confusion=table)})).rejected[1]


def test_a_table_that_no_task_fills_is_rejected() -> None:
    odd = garbled(1, lambda parcel: parcel.arrays.update({"table/heap": np.zeros((9, 9), np.int64)}))
    assert collect(CohortReply(Parcel(), {1: odd})).rejected == {1: "a table 'heap' was not asked for"}


@pytest.mark.parametrize(
    "process", [None, 3, {}, {"pid": "a", "peak_rss_bytes": 1}, {"pid": 1, "peak_rss_bytes": None}]
)
def test_a_worker_that_garbles_its_memory_is_still_heard(process: Any) -> None:
    answers = collect(CohortReply(Parcel({"process": process}), {0: answer(0)}))
    assert answers.good.keys() == {0}
    assert answers.peaks == {}


def test_a_quorum_counts_good_replies() -> None:
    answers = collect(CohortReply(Parcel(), {0: answer(0), 1: ClientFailure(1, "raised")}))
    answers.check_quorum(3, 1)
    with pytest.raises(
        QuorumError, match=r"round 3: 1 good replies, need 2 \(engine.min_good_replies\). client 1: raised"
    ):
        answers.check_quorum(3, 2)


def test_a_missed_quorum_gives_the_first_reasons_by_client() -> None:
    clients: dict[int, Parcel | ClientFailure] = {i: ClientFailure(i, f"reason {i}") for i in (4, 3, 1, 0)}
    answers = collect(CohortReply(Parcel(), {2: answer(2, value=np.nan), **clients}))
    with pytest.raises(QuorumError) as caught:
        answers.check_quorum(7, 1)
    told = str(caught.value)
    assert told.startswith("round 7: 0 good replies, need 1")
    assert "client 0: reason 0; client 1: reason 1; client 2: rows proxy/logits/main: 2 rows hold" in told
    assert told.endswith("(and 2 more)")


REPLY = pack(Bundle("round", Parcel(), {1: answer(1, confusion=np.eye(2, dtype=np.int64))}))


@given(st.lists(st.tuples(st.integers(0, len(REPLY) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_mutated_reply_is_sorted_in_whatever_it_says(changes: list[tuple[int, int]]) -> None:
    data = bytearray(REPLY)
    for at, value in changes:
        data[at] = value
    answers = collect(read_reply(bytes(data), [1]))
    answers.add_missing([1], reason="silent")
    assert [1] in (list(answers.good), list(answers.failures), list(answers.rejected))


@given(
    st.sampled_from(sorted(answer(1, confusion=np.eye(2, dtype=np.int64)).arrays)),
    st.sampled_from(sorted(DTYPES, key=str)).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    ),
)
def test_any_array_in_a_reply_is_taken_or_refused(name: str, array: np.ndarray) -> None:
    parcel = answer(1, confusion=np.eye(2, dtype=np.int64))
    parcel.arrays[name] = array
    with np.errstate(over="ignore", invalid="ignore"):  # casts of what no honest client sends
        answers, shares = read(CohortReply(Parcel(), {1: parcel}))
    assert len(answers.good) + len(answers.rejected) == 1
    for share in shares:
        (rows,) = share.rows
        assert np.isfinite(rows.values).all()
        assert len(rows) == len(np.unique(rows.ids))


def test_shares_come_by_client_id_whatever_order_they_arrive_in() -> None:
    """Clients 2 and 3 wait for 0, and 5 for 4, of whom nothing is ever heard."""
    alive: list[weakref.ref[Share]] = []
    order: list[tuple[int, int]] = []

    def replies() -> Iterator[CohortReply]:
        for number, clients in enumerate([(2, 3), (5,), (0, 1)]):
            yield CohortReply(Parcel(), {client_id: answer(client_id) for client_id in clients})
            order.append((-1, number))

    answers = Answers()
    for share in answers.arrivals(replies(), clients=range(6), codec=CODEC, expected=EXPECTED):
        order.append((share.client_id, sum(each() is not None for each in alive)))
        alive.append(weakref.ref(share))
        assert len(share.rows) == 1
    # At most one is still there when the next one comes: what is kept has no rows.
    assert [client_id for client_id, _ in order] == [-1, -1, 0, 1, 2, 3, -1, 5]
    assert all(held <= 1 for client_id, held in order if client_id >= 0)
    assert [answers.good[i].share.rows for i in sorted(answers.good)] == [()] * 5


def test_a_client_that_failed_holds_nobody_up() -> None:
    seen: list[int] = []

    def replies() -> Iterator[CohortReply]:
        yield CohortReply(Parcel(), {0: ClientFailure(0, "raised"), 1: answer(1)})
        seen.append(-1)

    answers = Answers()
    for share in answers.arrivals(replies(), clients=range(3), codec=CODEC, expected=EXPECTED):
        seen.append(share.client_id)
    assert seen == [1, -1]

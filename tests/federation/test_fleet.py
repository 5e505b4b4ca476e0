from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.federation.fleet import CohortReply, deal, read_reply
from fedkd.federation.messages import ClientFailure
from fedkd.federation.store import StateRef
from fedkd.federation.wire import Bundle, Parcel, pack


@given(st.sets(st.integers(0, 500), max_size=40), st.integers(1, 12), st.integers(0, 12))
def test_dealing_is_a_partition_of_the_clients(clients: set[int], nodes: int, per_node: int) -> None:
    cohorts = deal(sorted(clients, reverse=True), nodes, per_node)
    assert [client for cohort in cohorts for client in cohort] == sorted(clients)
    assert all(cohorts)


@given(st.integers(0, 60), st.integers(1, 12))
def test_dealing_evenly_gives_sizes_that_differ_by_one_at_most(clients: int, nodes: int) -> None:
    sizes = [len(cohort) for cohort in deal(range(clients), nodes, 0)]
    assert len(sizes) == min(clients, nodes)
    assert max(sizes, default=0) - min(sizes, default=0) <= 1


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 12))
def test_cohorts_of_a_given_size_are_full_but_the_last(clients: int, nodes: int, per_node: int) -> None:
    *full, last = (len(cohort) for cohort in deal(range(clients), nodes, per_node))
    assert set(full) <= {per_node}
    assert 1 <= last <= per_node


def test_a_deal_by_hand() -> None:
    assert deal([7, 1, 4, 2, 9], 2, 0) == [[1, 2], [4, 7, 9]]
    assert deal([7, 1, 4, 2, 9], 2, 2) == [[1, 2], [4, 7], [9]]


def test_bytes_that_are_no_message_fail_everyone_who_was_asked() -> None:
    reply = read_reply(b"nonsense", [2, 5])
    assert all(isinstance(answer, ClientFailure) for answer in reply.clients.values())
    assert reply.clients.keys() == {2, 5}
    assert "no valid message" in reply.clients[2].reason  # type: ignore[union-attr]


def test_a_reply_counts_for_those_who_were_asked_alone() -> None:
    data = pack(Bundle("round", Parcel(), {2: Parcel({"a": 1}), 3: Parcel({"a": 2})}))
    reply = read_reply(data, [2, 5])
    assert reply.clients.keys() == {2}
    assert reply.header_bytes == len(data)  # there are no arrays


@pytest.mark.parametrize(
    ("header", "failure"),
    [
        ({"failure": "raised"}, ClientFailure(2, "raised")),
        ({"failure": "raised", "ref": ["f", "d"]}, ClientFailure(2, "raised", StateRef("f", "d"))),
    ],
)
def test_a_failure_says_where_the_state_lies(header: dict[str, object], failure: ClientFailure) -> None:
    assert read_reply(pack(Bundle("round", Parcel(), {2: Parcel(header)})), [2]).clients[2] == failure


@pytest.mark.parametrize("ref", [3, ["only one"], None])
def test_a_failure_with_a_garbled_reference_is_a_failure(ref: object) -> None:
    reply = read_reply(pack(Bundle("round", Parcel(), {2: Parcel({"failure": "raised", "ref": ref})})), [2])
    found = reply.clients[2]
    assert isinstance(found, ClientFailure)
    assert found.ref is None


def test_peak_memory_is_read_by_process() -> None:
    assert CohortReply(Parcel({"process": {"pid": 3, "peak_rss_bytes": 10}})).peak == {3: 10}
    assert CohortReply(Parcel()).peak == {}

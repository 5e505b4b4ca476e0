"""What benchmarks share: repeats, records, children."""

from __future__ import annotations

import pytest

from fedkd.bench.child import ask_child, peak_rss_bytes
from fedkd.bench.record import interleaved, record_of
from fedkd.errors import FedKDError


def test_repeats_go_through_all_items_in_turn() -> None:
    order: list[str] = []

    def measure(item: str) -> int:
        order.append(item)
        return len(order)

    assert interleaved(["a", "b"], 3, measure) == [[1, 3, 5], [2, 4, 6]]
    assert "".join(order) == "ababab"


def test_a_record_says_how_to_repeat_it_and_where_it_was_made() -> None:
    found = record_of("fedkd bench x", ("numpy",))
    assert found["command"] == "fedkd bench x"
    assert {"processor", "cores", "python", "numpy"} <= set(found["machine"])


def test_a_childs_own_error_is_ours() -> None:
    request = {"case": "wa_mlp", "config": {"engine.workers": 2}}
    with pytest.raises(
        FedKDError, match=r"^asking: engine.workers is 2, expected 1 .*the time of one process is read$"
    ):
        ask_child("fedkd.bench.engine.ours", request, what="asking")


def test_a_child_that_ends_without_an_answer_leaves_its_last_words() -> None:
    with pytest.raises(FedKDError, match=r"(?s)^asking failed:.*No module named fedkd.nowhere"):
        ask_child("fedkd.nowhere", {}, what="asking")


def test_peak_memory_is_in_bytes() -> None:
    assert 10_000_000 < peak_rss_bytes() < 10**12

"""Laws of every partition: disjoint, nothing lost, ascending, nobody empty-handed, the seed decides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkd.data import PARTITIONS
from fedkd.data.partition_file import PartitionTable
from fedkd.errors import ConfigError, DataError
from fedkd.lookup import resolve
from fedkd.types import Array, Ids

LABELS = st.lists(st.integers(0, 5), min_size=0, max_size=80).map(lambda labels: np.array(labels, np.int64))
OPTIONS: dict[str, list[dict[str, float]]] = {
    "weak": [{}, {"random_classes": True}],
    "dirichlet": [{}, {"alpha": 0.05, "min_samples": 1}, {"alpha": 100.0}],
    "shards": [{}, {"shards_per_client": 1}, {"shards_per_client": 5}],
    "quantity": [{}, {"alpha": 0.05, "min_samples": 1}, {"alpha": 100.0}],
}
CASES = [(name, options) for name in PARTITIONS for options in OPTIONS.get(name, [{}])]


def deal(name: str, options: dict[str, float], labels: Array, num_clients: int, seed: int) -> tuple[Ids, ...] | None:
    cls = resolve(PARTITIONS, name, what="partition")
    rng = np.random.default_rng(seed)
    try:
        parts: tuple[Ids, ...] = cls(cls.Config(**options)).assign(
            labels, num_clients=num_clients, num_classes=6, rng=rng
        )
    except (ConfigError, DataError):
        return None
    return parts


@pytest.mark.parametrize(("name", "options"), CASES)
@settings(deadline=None)
@given(labels=LABELS, num_clients=st.integers(1, 9), seed=st.integers(0, 20))
def test_parts_are_disjoint_complete_ascending_and_not_empty(
    name: str, options: dict[str, float], labels: Array, num_clients: int, seed: int
) -> None:
    parts = deal(name, options, labels, num_clients, seed)
    if parts is None:  # an error is the only other answer
        return
    assert len(parts) == num_clients
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    for ids in parts:
        assert ids.dtype == np.int64
        assert len(ids) >= 1
        assert (np.diff(ids) > 0).all()


@pytest.mark.parametrize(("name", "options"), CASES)
@settings(deadline=None, max_examples=30)
@given(labels=LABELS, num_clients=st.integers(1, 6), seed=st.integers(0, 20))
def test_same_seed_same_parts(name: str, options: dict[str, float], labels: Array, num_clients: int, seed: int) -> None:
    first, second = (deal(name, options, labels, num_clients, seed) for _ in range(2))
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert PartitionTable.of(first).digest == PartitionTable.of(second).digest


@pytest.mark.parametrize("name", PARTITIONS)
@settings(deadline=None, max_examples=30)
@given(num_clients=st.integers(1, 6), seed=st.integers(0, 20))
def test_ample_balanced_data_serve_everyone(name: str, num_clients: int, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(6), 50))
    if resolve(PARTITIONS, name, what="partition").is_local:
        num_clients = 1  # a node has one client
    assert deal(name, {}, labels, num_clients, seed) is not None


@settings(deadline=None)
@given(labels=LABELS, num_clients=st.integers(1, 6), seed=st.integers(0, 20))
def test_strong_shares_no_class_and_weak_shares_each_between_two(labels: Array, num_clients: int, seed: int) -> None:
    for name, most in (("strong", 1), ("weak", 2)):
        parts = deal(name, {}, labels, num_clients, seed)
        for label in range(6) if parts is not None else ():
            assert sum(label in labels[ids] for ids in parts or ()) <= most

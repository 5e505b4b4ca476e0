import numpy as np
import pytest

from fedkd.data.partitions import Shards, ShardsConfig
from fedkd.errors import ConfigError, DataError
from fedkd.types import Array, Ids

LABELS = np.random.default_rng(5).permutation(np.repeat(np.arange(10), 20))


def deal(each: int, num_clients: int, *, labels: Array = LABELS, seed: int = 0) -> tuple[Ids, ...]:
    partition = Shards(ShardsConfig(shards_per_client=each))
    return partition.assign(labels, num_clients=num_clients, num_classes=10, rng=np.random.default_rng(seed))


def test_clients_hold_as_many_classes_as_shards_at_most_where_shards_fit_the_classes() -> None:
    for each, num_clients in ((2, 10), (1, 20), (4, 5)):  # 20 shards of 10 samples each: half a class
        parts = deal(each, num_clients)
        assert [len(ids) for ids in parts] == [10 * each] * num_clients
        assert all(len(np.unique(LABELS[ids])) <= each for ids in parts)


def test_a_shard_is_a_run_of_the_sorted_samples() -> None:
    rank = np.empty(len(LABELS), np.int64)
    rank[np.argsort(LABELS, kind="stable")] = np.arange(len(LABELS))
    for ids in deal(2, 10):
        shards = np.unique(rank[ids] // 10)
        assert len(shards) == 2
        np.testing.assert_array_equal(np.sort(rank[ids]), np.concatenate([s * 10 + np.arange(10) for s in shards]))


def test_sizes_that_do_not_divide_differ_by_one_per_shard() -> None:
    sizes = [len(ids) for ids in deal(2, 7)]  # 200 samples in 14 shards of 14 or 15
    assert sum(sizes) == 200
    assert min(sizes) >= 28
    assert max(sizes) <= 30


def test_the_seed_decides() -> None:
    drawn = {str([ids.tolist() for ids in deal(2, 10, seed=seed)]) for seed in range(5)}
    assert len(drawn) == 5


def test_more_shards_than_samples_is_an_error() -> None:
    with pytest.raises(DataError, match=r"200 samples cannot be cut into 202 shards, 2 for each of 101 clients; lower"):
        deal(2, 101)
    with pytest.raises(ConfigError):
        ShardsConfig(shards_per_client=0)

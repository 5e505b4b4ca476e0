import numpy as np
import pytest

from fedkd.data import PARTITIONS
from fedkd.data.partitions import (
    Dirichlet,
    DirichletConfig,
    Iid,
    IidConfig,
    Partition,
    Strong,
    StrongConfig,
    Weak,
    WeakConfig,
)
from fedkd.errors import ConfigError, DataError
from fedkd.lookup import resolve
from fedkd.types import Array, Ids

LABELS = np.random.default_rng(5).permutation(np.repeat(np.arange(10), 20))


def deal(partition: Partition, num_clients: int, *, labels: Array = LABELS, seed: int = 0) -> tuple[Ids, ...]:
    return partition.assign(labels, num_clients=num_clients, num_classes=10, rng=np.random.default_rng(seed))


def classes(parts: tuple[Ids, ...]) -> list[list[int]]:
    return [np.unique(LABELS[ids]).tolist() for ids in parts]


@pytest.mark.parametrize("name", PARTITIONS)
def test_the_table_names_classes_with_a_config(name: str) -> None:
    cls = resolve(PARTITIONS, name, what="partition")
    assert issubclass(cls, Partition)
    clients = 1 if cls.is_local else 2
    assert len(deal(cls(cls.Config()), clients)) == clients


def test_strong_gives_each_client_its_class() -> None:
    assert classes(deal(Strong(StrongConfig()), 10)) == [[c] for c in range(10)]


def test_strong_deals_round_robin_to_fewer_clients() -> None:
    assert classes(deal(Strong(StrongConfig()), 4)) == [[0, 4, 8], [1, 5, 9], [2, 6], [3, 7]]


def test_weak_gives_neighbours_half_of_each_class() -> None:
    parts = deal(Weak(WeakConfig()), 10)
    assert classes(parts) == [sorted([c, (c + 1) % 10]) for c in range(10)]
    assert all((np.bincount(LABELS[ids], minlength=10)[np.unique(LABELS[ids])] == 10).all() for ids in parts)


def test_weak_with_fewer_clients_splits_each_class_between_neighbours() -> None:
    parts = deal(Weak(WeakConfig()), 4)
    holders = [[c for c, ids in enumerate(parts) if k in LABELS[ids]] for k in range(10)]
    assert holders == [sorted([k % 4, (k - 1) % 4]) for k in range(10)]
    assert classes(deal(Weak(WeakConfig()), 1)) == [list(range(10))]


def test_weak_with_random_classes_keeps_the_multiplicity() -> None:
    partition = Weak(WeakConfig(random_classes=True))
    seen = set()
    for seed in range(5):
        owned = classes(deal(partition, 10, seed=seed))
        assert all(len(own) == 2 for own in owned)
        assert (np.bincount(np.concatenate(owned)) == 2).all()
        seen.add(str(owned))
    assert len(seen) == 5


def test_iid_is_even_and_mixed() -> None:
    parts = deal(Iid(IidConfig()), 7)
    assert {len(ids) for ids in parts} == {28, 29}
    assert all(len(own) >= 7 for own in classes(parts))


def test_dirichlet_concentration_decides_how_many_classes_a_client_holds() -> None:
    narrow = classes(deal(Dirichlet(DirichletConfig(alpha=0.05)), 5))
    wide = classes(deal(Dirichlet(DirichletConfig(alpha=1000.0)), 5))
    assert np.mean([len(own) for own in narrow]) < 6
    assert all(len(own) == 10 for own in wide)


def test_dirichlet_gives_every_client_the_minimum() -> None:
    for seed in range(20):
        parts = deal(Dirichlet(DirichletConfig(alpha=0.2, min_samples=4)), 8, seed=seed)
        assert min(map(len, parts)) >= 4


def test_dirichlet_serves_many_clients() -> None:
    labels = np.random.default_rng(0).integers(0, 10, 60_000)
    parts = deal(Dirichlet(DirichletConfig(alpha=5.0, min_samples=1)), 1000, labels=labels)
    assert len(parts) == 1000
    assert sum(map(len, parts)) == 60_000


def test_dirichlet_that_cannot_serve_everyone_says_what_to_do() -> None:
    partition = Dirichlet(DirichletConfig(alpha=0.001))
    with pytest.raises(DataError, match=r"alpha 0\.001.*100 draws.*client \d+ got [01], expected at least 2; raise"):
        deal(partition, 90)
    with pytest.raises(DataError, match="200 samples cannot give each of 101 clients 2"):
        deal(partition, 101)


def test_the_default_minimum_leaves_a_sample_after_the_smallest_contribution() -> None:
    assert DirichletConfig().min_samples == 2


@pytest.mark.parametrize("partition", [Strong(StrongConfig()), Weak(WeakConfig())], ids=["strong", "weak"])
def test_more_clients_than_classes_is_a_config_error_with_a_remedy(partition: Partition) -> None:
    with pytest.raises(
        ConfigError, match=r"num_clients is 11, .* 10 classes .* or partition\.name = 'dirichlet'"
    ) as caught:
        deal(partition, 11)
    assert caught.value.key == "num_clients"


def test_a_client_without_data_is_an_error() -> None:
    with pytest.raises(DataError, match=r"'iid' leaves 2 of 5 clients .* 3 samples, the first is client 3"):
        deal(Iid(IidConfig()), 5, labels=np.arange(3))
    with pytest.raises(DataError, match=r"'strong' leaves 7 of 10 .* client 3"):
        deal(Strong(StrongConfig()), 10, labels=np.arange(3))
    with pytest.raises(DataError, match=r"'weak' leaves"):
        deal(Weak(WeakConfig()), 10, labels=np.arange(3))


@pytest.mark.parametrize(
    "values", [{"alpha": 0.0}, {"alpha": float("inf")}, {"alpha": float("nan")}, {"min_samples": 0}]
)
def test_bad_dirichlet_values_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        DirichletConfig(**values)  # type: ignore[arg-type]

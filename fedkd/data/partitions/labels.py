"""Partitions by label: clients differ in the classes that they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from fedkd.checks import check_range
from fedkd.data.partitions.base import Partition, check_clients, grouped
from fedkd.errors import DataError
from fedkd.types import Array, Ids

DIRICHLET_DRAWS = 100  # draws before the Dirichlet partition gives up on finding enough samples for every client


@dataclass(frozen=True, kw_only=True)
class StrongConfig:
    """No option."""


@final
class Strong(Partition):
    """Classes dealt out whole and disjoint: client c owns class c.

    Fewer clients than classes: class k goes to client k mod N. Source: the strong non-IID setting of Selective-FD.
    """

    Config: ClassVar[type] = StrongConfig

    def __init__(self, config: StrongConfig) -> None:
        self._config = config

    def assign(self, labels: Array, *, num_clients: int, num_classes: int, rng: np.random.Generator) -> tuple[Ids, ...]:
        """See Partition. Nothing is drawn."""
        del rng
        check_clients("strong", num_clients, num_classes)
        return grouped(labels % num_clients, num_clients, "strong")


@dataclass(frozen=True, kw_only=True)
class WeakConfig:
    """Which classes share a client."""

    random_classes: bool = False  # true: the classes are renumbered at random before they are dealt out


@final
class Weak(Partition):
    """Two classes each, each class held by two clients, half of it each: client c owns classes c and (c + 1) mod K.

    Fewer clients than classes: class k is split between clients k mod N and (k - 1) mod N; with two clients each holds
    half of every class, with one client all. The halves are drawn at random; a class of odd size gives the spare sample
    to client k mod N.
    """

    Config: ClassVar[type] = WeakConfig

    def __init__(self, config: WeakConfig) -> None:
        self._config = config

    def assign(self, labels: Array, *, num_clients: int, num_classes: int, rng: np.random.Generator) -> tuple[Ids, ...]:
        """See Partition."""
        check_clients("weak", num_clients, num_classes)
        number = rng.permutation(num_classes) if self._config.random_classes else np.arange(num_classes)
        owner = np.zeros(len(labels), np.int64)
        for label in range(num_classes):
            ids = rng.permutation(np.flatnonzero(labels == label))
            first = (len(ids) + 1) // 2
            owner[ids[:first]] = number[label] % num_clients
            owner[ids[first:]] = (number[label] - 1) % num_clients
        return grouped(owner, num_clients, "weak")


@dataclass(frozen=True, kw_only=True)
class DirichletConfig:
    """How uneven the class mixes are."""

    alpha: float = 0.5  # > 0, up to 1e6; small gives each class to few clients, large tends to IID
    min_samples: int = 2  # what each client must get, at least 1; 2 leave one after the smallest contribution

    def __post_init__(self) -> None:
        check_range("alpha", self.alpha, above=0.0, high=1e6)
        check_range("min_samples", self.min_samples, low=1)


@final
class Dirichlet(Partition):
    """Each class is split over the clients in proportions drawn from a symmetric Dirichlet(alpha).

    Paper: Hsu et al. 2019. Deviation: where a client gets fewer than `min_samples`, everything is drawn again from the
    same stream, DIRICHLET_DRAWS times at most.
    """

    Config: ClassVar[type] = DirichletConfig

    def __init__(self, config: DirichletConfig) -> None:
        self._config = config

    def assign(self, labels: Array, *, num_clients: int, num_classes: int, rng: np.random.Generator) -> tuple[Ids, ...]:
        """See Partition."""
        alpha, wanted = self._config.alpha, self._config.min_samples
        if num_clients * wanted > len(labels):
            raise DataError(
                f"partition 'dirichlet': {len(labels)} samples cannot give each of {num_clients} clients {wanted} "
                "(partition.min_samples); use fewer clients or more data"
            )
        by_class = [np.flatnonzero(labels == label) for label in range(num_classes)]
        for _ in range(DIRICHLET_DRAWS):
            owner = np.empty(len(labels), np.int64)
            for ids in by_class:
                cuts = np.rint(rng.dirichlet(np.full(num_clients, alpha)).cumsum()[:-1] * len(ids)).astype(np.int64)
                sizes = np.diff(cuts.clip(max=len(ids)), prepend=0, append=len(ids))
                owner[rng.permutation(ids)] = np.repeat(np.arange(num_clients), sizes)
            counts = np.bincount(owner, minlength=num_clients)
            if counts.min() >= wanted:
                return grouped(owner, num_clients, "dirichlet")
        raise DataError(
            f"partition 'dirichlet' with alpha {alpha:g}: one of {num_clients} clients had too few samples in each of "
            f"{DIRICHLET_DRAWS} draws; in the last one client {counts.argmin()} got {counts.min()}, expected at least "
            f"{wanted}; raise partition.alpha, lower partition.min_samples or num_clients, or use more data"
        )


@dataclass(frozen=True, kw_only=True)
class ShardsConfig:
    """How many pieces of the sorted data a client gets."""

    shards_per_client: int = 2  # at least 1; a shard holds one class, or more where a class ends within it

    def __post_init__(self) -> None:
        check_range("shards_per_client", self.shards_per_client, low=1)


@final
class Shards(Partition):
    """Samples sorted by class and cut into equal shards, of which each client draws `shards_per_client`.

    Paper: McMahan et al. 2017. Deviation: none; where the samples do not divide evenly, shard sizes differ by one.
    """

    Config: ClassVar[type] = ShardsConfig

    def __init__(self, config: ShardsConfig) -> None:
        self._config = config

    def assign(self, labels: Array, *, num_clients: int, num_classes: int, rng: np.random.Generator) -> tuple[Ids, ...]:
        """See Partition."""
        del num_classes
        each = self._config.shards_per_client
        num_shards = num_clients * each
        if num_shards > len(labels):
            raise DataError(
                f"partition 'shards': {len(labels)} samples cannot be cut into {num_shards} shards, {each} for each of "
                f"{num_clients} clients; lower partition.shards_per_client, use fewer clients or more data"
            )
        shards = np.array_split(np.argsort(labels, kind="stable"), num_shards)
        owner = np.empty(len(labels), np.int64)
        for shard, ids in zip(rng.permutation(num_shards), shards, strict=True):
            owner[ids] = shard // each
        return grouped(owner, num_clients, "shards")

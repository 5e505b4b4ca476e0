"""Partitions with the same class mix everywhere: clients differ in size alone, or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from fedkd.checks import check_range
from fedkd.data.partitions.base import Partition, grouped
from fedkd.errors import DataError
from fedkd.types import Array, Ids


@dataclass(frozen=True, kw_only=True)
class IidConfig:
    """No option."""


@final
class Iid(Partition):
    """Samples shuffled and split evenly; sizes differ by one at most."""

    Config: ClassVar[type] = IidConfig

    def __init__(self, config: IidConfig) -> None:
        self._config = config

    def assign(self, labels: Array, *, num_clients: int, num_classes: int, rng: np.random.Generator) -> tuple[Ids, ...]:
        """See Partition. The classes play no part."""
        del num_classes
        return grouped(rng.permutation(np.arange(len(labels)) % num_clients), num_clients, "iid")


@dataclass(frozen=True, kw_only=True)
class QuantityConfig:
    """How uneven the clients' sizes are."""

    alpha: float = (
        0.5  # beta in the paper; > 0, up to 1e6; small gives most samples to few clients, large tends to even
    )
    min_samples: int = 2  # what each client gets first, at least 1; 2 leave one after the smallest contribution

    def __post_init__(self) -> None:
        check_range("alpha", self.alpha, above=0.0, high=1e6)
        check_range("min_samples", self.min_samples, low=1)


@final
class Quantity(Partition):
    """Equal class mix, unequal sizes: shuffled samples, split in proportions drawn from a symmetric Dirichlet(alpha).

    Paper: Li et al. 2022 (NIID-Bench), quantity skew. Deviation: each client gets `min_samples` first, and the rest is
    split in the proportions drawn.
    """

    Config: ClassVar[type] = QuantityConfig

    def __init__(self, config: QuantityConfig) -> None:
        self._config = config

    def assign(self, labels: Array, *, num_clients: int, num_classes: int, rng: np.random.Generator) -> tuple[Ids, ...]:
        """See Partition. The classes play no part."""
        del num_classes
        least = self._config.min_samples
        rest = len(labels) - num_clients * least
        if rest < 0:
            raise DataError(
                f"partition 'quantity': {len(labels)} samples cannot give each of {num_clients} clients {least} "
                "(partition.min_samples); use fewer clients or more data"
            )
        cuts = np.rint(rng.dirichlet(np.full(num_clients, self._config.alpha)).cumsum()[:-1] * rest).astype(np.int64)
        sizes = least + np.diff(cuts.clip(max=rest), prepend=0, append=rest)
        return grouped(rng.permutation(np.repeat(np.arange(num_clients), sizes)), num_clients, "quantity")

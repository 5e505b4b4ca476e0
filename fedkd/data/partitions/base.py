"""How the training samples are dealt to the clients: the interface, and what several partitions share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from fedkd.errors import ConfigError, DataError
from fedkd.types import Array, Ids


class Partition(ABC):
    """Deals samples to clients: disjoint, all of them, at least one each. Construct with `cls(config)`."""

    Config: ClassVar[type]
    is_local: ClassVar[bool] = False  # true: a deployed client takes all that its own node holds; nothing is dealt out

    @abstractmethod
    def assign(self, labels: Array, *, num_clients: int, num_classes: int, rng: np.random.Generator) -> tuple[Ids, ...]:
        """For each client the ascending indices of its samples in `labels` (n,).

        Raises:
            ConfigError: the partition cannot deal to that many clients.
            DataError: a client would be left without a sample.
        """

    def transform(self, client_id: int, x: Array) -> Array:
        """The client's inputs x (n, ...) as it sees them, of equal shape and type; x itself where all see alike.

        Applied to all that a client holds, in the order of its indices and before it contributes to the proxy set. The
        global test set stays as it is. A function of the configuration and its arguments alone: any process that serves
        the client makes the same inputs.
        """
        del client_id
        return x


def check_clients(name: str, num_clients: int, num_classes: int) -> None:
    """ConfigError where there are more clients than classes to deal out whole."""
    if num_clients > num_classes:
        raise ConfigError(
            f"num_clients is {num_clients}, but partition {name!r} has only {num_classes} classes to deal out; use "
            f"num_clients = {num_classes} or fewer, or partition.name = 'dirichlet' or 'iid'",
            key="num_clients",
        )


def grouped(owner: Ids, num_clients: int, name: str) -> tuple[Ids, ...]:
    """Ascending indices per client from the owner (n,) of each sample; DataError where a client owns none."""
    counts = np.bincount(owner, minlength=num_clients)
    if (counts == 0).any():
        raise DataError(
            f"partition {name!r} leaves {int((counts == 0).sum())} of {num_clients} clients without one of the "
            f"{len(owner)} samples, the first is client {int(counts.argmin())}; use fewer clients or more data"
        )
    order = np.argsort(owner, kind="stable")
    return tuple(np.split(order, counts.cumsum()[:-1]))

"""The partition of a deployment: what lies on a node is its client's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from fedkd.data.partitions.base import Partition, grouped
from fedkd.errors import ConfigError
from fedkd.types import Array, Ids


@dataclass(frozen=True, kw_only=True)
class LocalConfig:
    """No option."""


@final
class Local(Partition):
    """Nothing is dealt out: each node's own data set is its client's. For deployment; in simulation, for one client.

    A node asks for the indices of its one client; indices count within the node's own data. In a simulation several
    clients would all hold the same samples, so that is refused.
    """

    Config: ClassVar[type] = LocalConfig
    is_local: ClassVar[bool] = True

    def __init__(self, config: LocalConfig) -> None:
        self._config = config

    def assign(self, labels: Array, *, num_clients: int, num_classes: int, rng: np.random.Generator) -> tuple[Ids, ...]:
        """See Partition. Nothing is drawn."""
        del num_classes, rng
        if num_clients > 1:
            raise ConfigError(
                f"num_clients is {num_clients}, but partition 'local' gives a client all the data of its own node, and "
                "here is one node: deploy, use num_clients = 1, or choose another partition",
                key="num_clients",
            )
        return grouped(np.zeros(len(labels), np.int64), 1, "local")

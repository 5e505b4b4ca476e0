"""Workload S: drawn data of ten classes that the benchmarks of engine and scale, and their peers, train on.

x = 0.5 * prototype[y] + noise in R^{1x28x28}, prototypes and noise standard normal, labels uniform. In a configuration:
`data.name = "fedkd.bench.workload:private"` and `proxy.data = "fedkd.bench.workload:proxy"`. `data.max_train`,
`data.max_test` and `proxy.max_samples` say how many rows are drawn; a longer draw begins with the shorter one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from fedkd.data.base import Dataset, Samples
from fedkd.data.config import DataConfig
from fedkd.data.partitions.base import Partition
from fedkd.types import Array, Ids

CLASSES = 10
SHAPE = (1, 28, 28)
ROWS = 6000  # for ten clients, 600 each
HELD_BACK = 1000  # rows of the test set, and of the proxy set
_SEED = 1234
_BLOCK = 1024
_TRAIN, _TEST, _PROXY = 1, 2, 3  # each draw has a stream of its own


def private(config: DataConfig) -> Dataset:
    """What is dealt to the clients, and the test set."""
    return Dataset(
        name="workload_s",
        train=draw(config.max_train or ROWS, _TRAIN),
        test=draw(config.max_test or HELD_BACK, _TEST),
        num_classes=CLASSES,
    )


def proxy(config: DataConfig) -> Dataset:
    """Further rows of the same kind, as the training part of a data set of their own."""
    rows = draw(config.max_train or HELD_BACK, _PROXY)
    return Dataset(name="workload_s_proxy", train=rows, test=rows.take(np.arange(0)), num_classes=CLASSES)


def draw(rows: int, stream: int) -> Samples:
    """Samples (rows, 1, 28, 28) float32 with labels, the first of a fixed endless series."""
    prototypes = np.random.default_rng(_SEED).standard_normal((CLASSES, *SHAPE), dtype=np.float32)
    y = np.random.default_rng([_SEED, stream, 0]).integers(CLASSES, size=rows)
    x = np.random.default_rng([_SEED, stream, 1]).standard_normal((rows, *SHAPE), dtype=np.float32)
    prototypes *= np.float32(0.5)
    for start in range(0, rows, _BLOCK):  # in place: the prototypes of all rows would take as much memory as the rows
        x[start : start + _BLOCK] += prototypes[y[start : start + _BLOCK]]
    return Samples(x, y)


@dataclass(frozen=True, kw_only=True)
class DrawnConfig:
    """Rows of each client."""

    rows: int = 64


@final
class Drawn(Partition):
    """Each client takes rows of the pool by drawn numbers, so that its work is the same however many clients there are.

    Deviation: `iid` deals every row once, and 60,000 rows are 6 for each of 10,000 clients.
    """

    Config = DrawnConfig

    def __init__(self, config: DrawnConfig) -> None:
        self.config = config

    def assign(
        self,
        labels: Array,
        *,
        num_clients: int,
        num_classes: int,  # noqa: ARG002
        rng: np.random.Generator,
    ) -> tuple[Ids, ...]:
        """Ascending positions (rows,) for each client."""
        return tuple(np.sort(rng.choice(len(labels), self.config.rows, replace=False)) for _ in range(num_clients))

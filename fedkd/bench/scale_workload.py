"""What `fedkd bench scale` trains on: drawn images, a pool that all clients take their rows from.

Outside names of `simulations/benchmarks/scale.toml`: `pool` and `proxy` are data sets, `Drawn` is a partition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from fedkd.data.base import Dataset, Samples
from fedkd.data.config import DataConfig
from fedkd.data.partitions.base import Partition
from fedkd.types import Array, Ids

POOL_ROWS, PROXY_ROWS, TEST_ROWS = 60_000, 1_000, 100
SHAPE, CLASSES = (1, 28, 28), 10
_SEED = 1234


def pool(config: DataConfig) -> Dataset:
    """The private samples, `data.max_train` or 60,000 of them, and a small test set."""
    return Dataset(
        name="scale_pool", train=_draw(config.max_train or POOL_ROWS, 1), test=_draw(TEST_ROWS, 2), num_classes=CLASSES
    )


def proxy(config: DataConfig) -> Dataset:
    """1,000 samples drawn alike, for everyone to speak about; `proxy.max_samples` may take fewer."""
    train = _draw(config.max_train or PROXY_ROWS, 3)
    return Dataset(name="scale_proxy", train=train, test=_draw(1, 4), num_classes=CLASSES)


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


def _draw(rows: int, part: int) -> Samples:
    """x = proto[y] / 2 + noise, all normal."""
    proto = np.random.default_rng(_SEED).standard_normal((CLASSES, *SHAPE), dtype=np.float32)
    proto *= 0.5
    rng = np.random.default_rng([_SEED, part])
    y = rng.integers(CLASSES, size=rows)
    x = rng.standard_normal((rows, *SHAPE), dtype=np.float32)
    for start in range(0, rows, 1024):  # in place: half the memory of proto[y] + noise
        x[start : start + 1024] += proto[y[start : start + 1024]]
    return Samples(x, y)

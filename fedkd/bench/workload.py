"""Workload S: drawn data of ten classes that the engine's benchmark and its peers train on.

x = 0.5 * prototype[y] + noise in R^{1x28x28}, prototypes and noise standard normal, labels uniform. In a configuration:
`data.name = "fedkd.bench.workload:private"` and `proxy.data = "fedkd.bench.workload:proxy"`. `data.max_train`,
`data.max_test` and `proxy.max_samples` say how many rows are drawn; a longer draw begins with the shorter one.
"""

from __future__ import annotations

import numpy as np

from fedkd.data.base import Dataset, Samples
from fedkd.data.config import DataConfig

CLASSES = 10
SHAPE = (1, 28, 28)
ROWS = 6000  # for ten clients, 600 each
HELD_BACK = 1000  # rows of the test set, and of the proxy set
_SEED = 1234
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
    x += np.float32(0.5) * prototypes[y]
    return Samples(x, y)

"""Fixed draws from a data set: fewer samples, a validation part, a test part. The experiment's seed plays no role."""

from __future__ import annotations

import numpy as np

from fedkd.data.base import Samples
from fedkd.data.config import DataConfig
from fedkd.errors import DataError
from fedkd.streams import stream
from fedkd.types import Array, Ids

TEST_SHARE = 0.2  # of a data set that comes without a test part of its own


def reduced(train: Samples, test: Samples, config: DataConfig) -> tuple[Samples, Samples]:
    """Training and test samples after `validation`, `max_train` and `max_test`, in that order.

    With a validation share the test set is left out altogether, so that defaults are chosen without it.
    """
    if config.validation > 0:
        kept, held_out = split_off(train.strata, config.validation, "validation")
        train, test = train.take(kept), train.take(held_out)
    return _at_most(train, config.max_train, "max_train"), _at_most(test, config.max_test, "max_test")


def split_off(labels: Array, share: float, name: str, *, rng: np.random.Generator | None = None) -> tuple[Ids, Ids]:
    """(positions that stay, positions held out), ascending, `share` of each class held out.

    Of two or more samples of a class at least one goes to each side; a single one stays.

    Args:
        name: of the fixed stream; the same name draws the same samples again.
        rng: draws in place of the fixed stream.
    """
    rng = stream(0, f"data/{name}") if rng is None else rng
    held_out = []
    for ids in _groups(labels):
        count = min(max(round(share * len(ids)), 1), len(ids) - 1)
        held_out.append(rng.permutation(ids)[:count])
    if not sum(map(len, held_out)):
        raise DataError(
            f"{len(labels)} samples with no two of one class cannot be split into training and {name} samples; "
            "expected two of a class or more, add samples"
        )
    mask = np.zeros(len(labels), bool)
    mask[np.concatenate(held_out)] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def stratified(labels: Array, count: int, rng: np.random.Generator) -> Ids:
    """Ascending positions of `count` samples: each class has the share that it has in `labels` (n,), one at least."""
    groups = _groups(labels)
    sizes = np.array([len(ids) for ids in groups])
    quota = count * sizes / len(labels)
    wanted = np.floor(quota).astype(np.int64)
    largest_rests = np.argsort(wanted - quota, kind="stable")[: count - wanted.sum()]
    wanted[largest_rests] += 1
    while (wanted == 0).any():
        wanted[wanted.argmin()] += 1
        wanted[wanted.argmax()] -= 1
    return np.sort(np.concatenate([rng.permutation(ids)[:n] for ids, n in zip(groups, wanted, strict=True)]))


def _at_most(samples: Samples, most: int, key: str) -> Samples:
    if most == 0 or most >= len(samples):
        return samples
    classes = len(_groups(samples.strata))
    if most < classes:
        raise DataError(
            f"data.{key} is {most}, fewer than the {classes} classes of the data; give {classes} or more, or 0 for all"
        )
    return samples.take(stratified(samples.strata, most, stream(0, f"data/{key}")))


def _groups(labels: Array) -> list[Ids]:
    """Positions by class; one group where a sample has no single class (a mask, a text)."""
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        return [np.arange(len(labels))]
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]

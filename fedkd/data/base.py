"""Data sets and the roles that samples play on a client. NumPy only: a device that filters needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import numpy as np

from fedkd.errors import DataError
from fedkd.types import Array, Ids

Role: TypeAlias = Literal["train", "val", "test", "unlabelled", "pool", "stream", "source", "paired", "seen_classes"]
ROLES: frozenset[str] = frozenset(get_args(Role))


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs x (n, ...) float32 and, where they are known, targets y (n, ...)."""

    x: Array
    y: Array | None = None

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: Ids) -> Samples:
        """The samples at `index` (n,), in that order."""
        return Samples(self.x[index], None if self.y is None else self.y[index])

    @property
    def labels(self) -> Array:
        """The targets; DataError where there are none."""
        if self.y is None:
            raise DataError("these samples have no labels, and what was asked of them needs labels")
        return self.y


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """A whole data set before it is dealt out.

    Raises:
        DataError: lengths differ, a label is out of range, or an input is NaN or infinite.
    """

    name: str
    train: Samples
    test: Samples
    num_classes: int
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for part, samples in (("train", self.train), ("test", self.test)):
            _check(self.name, part, samples, self.num_classes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch dimension."""
        return self.train.x.shape[1:]


@dataclass(frozen=True, eq=False)
class ClientData:
    """What one client holds, by role."""

    client_id: int
    roles: Mapping[str, Samples] = field(default_factory=dict)

    def role(self, name: str) -> Samples:
        """The samples that play the role `name`; DataError says which roles there are."""
        if name not in self.roles:
            raise DataError(
                f"client {self.client_id} has no {name!r} data, only {', '.join(sorted(self.roles))}; "
                "choose a method that does not need it, or data that have it"
            )
        return self.roles[name]

    @property
    def train(self) -> Samples:
        """Private, labelled training samples."""
        return self.role("train")

    @property
    def test(self) -> Samples:
        """The global test set, or a local hold-out where there is none."""
        return self.role("test")


def _check(name: str, part: str, samples: Samples, num_classes: int) -> None:
    x, y = samples.x, samples.labels
    if len(x) != len(y):
        raise DataError(f"data set {name!r}, {part}: {len(x)} inputs but {len(y)} labels")
    bad = ~np.isfinite(x.reshape(len(x), -1)).all(axis=1) if len(x) else np.zeros(0, bool)
    if bad.any():
        raise DataError(
            f"data set {name!r}, {part}: {int(bad.sum())} of {len(x)} inputs hold NaN or infinite values, the first at "
            f"index {int(bad.argmax())}; clean or drop them, fedkd does not guess"
        )
    if len(y) and (y.min() < 0 or y.max() >= num_classes):
        raise DataError(
            f"data set {name!r}, {part}: labels run from {y.min()} to {y.max()}, expected 0 to {num_classes - 1}; "
            "renumber the labels or correct num_classes"
        )

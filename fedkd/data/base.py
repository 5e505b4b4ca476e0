"""Data sets and the roles that samples play on a client. NumPy only: a device that filters needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import numpy as np

from fedkd.errors import DataError
from fedkd.types import Array, Ids

Role: TypeAlias = Literal["train", "val", "test", "unlabelled", "pool", "stream", "source", "paired", "seen_classes"]
ROLES: frozenset[str] = frozenset(get_args(Role))


IGNORE = -100  # target of positions that count for nothing (void pixels, prompts, padding); as in torch's losses


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs and, where they are known, targets.

    Attributes:
        x: (n, ...) the main input: float32 images or features, or int32 tokens.
        y: (n,) class numbers, or (n, ...) targets by position, where IGNORE marks what does not count.
        more: further inputs by name, each (n, ...): a second modality, a prompt, a time step.
        groups: (n,) int64, what partitions, splits and diagnostics count by where y is no class per sample (the
            dominant class of an image, the topic of a text). It never leaves the client, except for diagnostics.
    """

    x: Array
    y: Array | None = None
    more: Mapping[str, Array] = field(default_factory=dict)
    groups: Array | None = None

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: Ids) -> Samples:
        """The samples at `index` (n,), in that order."""
        return Samples(
            self.x[index],
            None if self.y is None else self.y[index],
            {name: array[index] for name, array in self.more.items()},
            None if self.groups is None else self.groups[index],
        )

    def inputs(self) -> Samples:
        """The same without targets and groups: what may enter a proxy set."""
        return Samples(self.x, more=self.more)

    @property
    def strata(self) -> Array:
        """Group numbers (n,): `groups`, else the classes, else one group for all."""
        if self.groups is not None:
            return self.groups
        if self.y is not None and self.y.ndim == 1:
            return self.y
        return np.zeros(len(self), np.int64)

    @property
    def labels(self) -> Array:
        """The targets; DataError where there are none."""
        if self.y is None:
            raise DataError("these samples have no labels, and what was asked of them needs labels")
        return self.y


@dataclass(frozen=True)
class Scaling:
    """How images become inputs: (pixel - mean) / sd by channel, with pixels in 0..1."""

    mean: tuple[float, ...]
    sd: tuple[float, ...]

    def apply(self, pixels: Array) -> Array:
        """Inputs (n, c, h, w) float32 from pixels of that shape: bytes in 0..255, or floats in 0..1."""
        full = 255.0 if pixels.dtype == np.uint8 else 1.0
        inputs: Array = np.multiply(pixels, self._by_channel([1 / (full * sd) for sd in self.sd]), dtype=np.float32)
        inputs += self._by_channel([-mean / sd for mean, sd in zip(self.mean, self.sd, strict=True)])
        return inputs

    def undo(self, inputs: Array) -> Array:
        """Pixels in 0..1 from inputs (n, c, h, w)."""
        pixels: Array = inputs * self._by_channel(self.sd) + self._by_channel(self.mean)
        return pixels

    @staticmethod
    def _by_channel(values: Sequence[float]) -> Array:
        return np.array(values, np.float32).reshape(-1, 1, 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """A whole data set before it is dealt out.

    Attributes:
        scaling: how pixels became the inputs; None where that is not known.

    Raises:
        DataError: lengths differ, a label is out of range, or an input is NaN or infinite.
    """

    name: str
    train: Samples
    test: Samples
    num_classes: int
    class_names: tuple[str, ...] = ()
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        for part, samples in (("train", self.train), ("test", self.test)):
            _check(self.name, part, samples, self.num_classes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch dimension."""
        return self.train.x.shape[1:]


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageSet:
    """A data set as its images are stored: x (n, c, h, w) uint8. A loader may return it in place of a Dataset.

    Only the samples that a run uses are then brought to float32, which takes four times the memory.
    """

    name: str
    train: Samples
    test: Samples
    num_classes: int
    scaling: Scaling
    class_names: tuple[str, ...] = ()

    def scaled(self) -> Dataset:
        """The data set with inputs as models take them."""
        return Dataset(
            name=self.name,
            train=Samples(self.scaling.apply(self.train.x), self.train.y),
            test=Samples(self.scaling.apply(self.test.x), self.test.y),
            num_classes=self.num_classes,
            class_names=self.class_names,
            scaling=self.scaling,
        )


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


def _all_finite(x: Array) -> bool:
    """Whether x holds no NaN and no infinity; its extremes tell, without a mask as large as x."""
    with np.errstate(invalid="ignore"):
        return x.size == 0 or bool(np.isfinite(x.min()) and np.isfinite(x.max()))


def _check(name: str, part: str, samples: Samples, num_classes: int) -> None:
    x, y = samples.x, samples.labels
    if len(x) != len(y):
        raise DataError(f"data set {name!r}, {part}: {len(x)} inputs but {len(y)} labels")
    if not _all_finite(x):
        bad = ~np.isfinite(x.reshape(len(x), -1)).all(axis=1)
        raise DataError(
            f"data set {name!r}, {part}: {int(bad.sum())} of {len(x)} inputs hold NaN or infinite values, the first at "
            f"index {int(bad.argmax())}; clean or drop them, fedkd does not guess"
        )
    if len(y) and (y.min() < 0 or y.max() >= num_classes):
        raise DataError(
            f"data set {name!r}, {part}: labels run from {y.min()} to {y.max()}, expected 0 to {num_classes - 1}; "
            "renumber the labels or correct num_classes"
        )

"""Data sets and the roles that samples play on a client. NumPy only: a device that filters needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, get_args

import numpy as np

from fedkd.errors import DataError
from fedkd.types import Array, Ids

Role: TypeAlias = Literal["train", "val", "test", "unlabelled", "pool", "stream", "source"]
ROLES: frozenset[str] = frozenset(get_args(Role))


_MORE = "more."  # prefix of the stored names of further inputs
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

    def arrays(self) -> dict[str, Array]:
        """Everything by name, as it is stored and sent: x, y, groups, and `more.<name>` for each further input."""
        named = {"x": self.x, "y": self.y, "groups": self.groups}
        found = {name: array for name, array in named.items() if array is not None}
        return found | {f"{_MORE}{name}": array for name, array in sorted(self.more.items())}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Array]) -> Samples:
        """What `arrays` made; KeyError where there is no x."""
        more = {name.removeprefix(_MORE): array for name, array in arrays.items() if name.startswith(_MORE)}
        return cls(arrays["x"], arrays.get("y"), more, arrays.get("groups"))

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
        num_classes: classes, or the vocabulary where samples are texts.
        num_groups: of samples that come with `groups`; 0 stands for the number of classes.
        scaling: how pixels became the inputs; None where that is not known.

    Raises:
        DataError: lengths differ, a label or group is out of range, or an input is NaN or infinite.
    """

    name: str
    train: Samples
    test: Samples
    num_classes: int
    class_names: tuple[str, ...] = ()
    scaling: Scaling | None = None
    num_groups: int = 0

    def __post_init__(self) -> None:
        for part, samples in (("train", self.train), ("test", self.test)):
            _check(self.name, part, samples, self.num_classes)
            _check_groups(self.name, part, samples, self.num_groups)

    @property
    def num_strata(self) -> int:
        """How many groups or classes partitions deal out."""
        if self.train.groups is not None:
            return self.num_groups
        return self.num_classes if self.train.labels.ndim == 1 else 1

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
    num_groups: int = 0

    def scaled(self) -> Dataset:
        """The data set with inputs as models take them."""
        return Dataset(
            name=self.name,
            train=replace(self.train, x=self.scaling.apply(self.train.x)),
            test=replace(self.test, x=self.scaling.apply(self.test.x)),
            num_classes=self.num_classes,
            class_names=self.class_names,
            scaling=self.scaling,
            num_groups=self.num_groups,
        )


@dataclass(frozen=True, eq=False)
class Oracle:
    """Somebody who tells the labels of a pool (n,), up to `budget` of them in the whole run."""

    labels: Array
    budget: int

    def reveal(self, picked: Ids) -> Array:
        """The labels at `picked`: everything that the client has ever asked for, since nothing is kept here.

        Raises:
            DataError: a position twice, one that is not there, or more than the budget.
        """
        if len(picked) > self.budget or len(np.unique(picked)) < len(picked):
            raise DataError(
                f"{len(picked)} labels are asked for, {len(np.unique(picked))} of them different; expected each once "
                f"and at most roles.budget = {self.budget}"
            )
        if len(picked) and not (picked.min() >= 0 and picked.max() < len(self.labels)):
            raise DataError(f"labels of samples {picked.min()} to {picked.max()} of {len(self.labels)} are asked for")
        answer: Array = self.labels[picked]
        return answer


@dataclass(frozen=True, eq=False)
class ClientData:
    """What one client holds, by role.

    Attributes:
        seen: classes that have labels; None where all may.
        oracle: of the role `pool`.
    """

    client_id: int
    roles: Mapping[str, Samples] = field(default_factory=dict)
    seen: Ids | None = None
    oracle: Oracle | None = None

    def has(self, name: str) -> bool:
        """Whether it holds samples of that role."""
        return name in self.roles and len(self.roles[name]) > 0

    def role(self, name: str) -> Samples:
        """The samples that play the role `name`; DataError says which roles there are."""
        if name not in self.roles:
            raise DataError(
                f"client {self.client_id} has no {name!r} data, only {', '.join(sorted(self.roles))}; "
                "choose a method that does not need it, or data that have it"
            )
        return self.roles[name]

    @property
    def private_bytes(self) -> int:
        """Memory of all samples but the test set, which clients share."""
        own = {
            id(array): array.nbytes
            for name, role in self.roles.items()
            if name != "test"
            for array in role.arrays().values()
        }
        return sum(own.values())

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
    x, y = samples.x, samples.labels if samples.groups is None else samples.y
    for what, array in (("labels", y), *((f"values of {key!r}", array) for key, array in samples.more.items())):
        if array is not None and len(x) != len(array):
            raise DataError(f"data set {name!r}, {part}: {len(x)} inputs but {len(array)} {what}")
    for what, array in (("inputs", x), *((f"values of {key!r}", array) for key, array in samples.more.items())):
        if not _all_finite(array):
            bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
            raise DataError(
                f"data set {name!r}, {part}: {int(bad.sum())} of {len(x)} {what} hold NaN or infinite values, the "
                f"first at index {int(bad.argmax())}; clean or drop them, fedkd does not guess"
            )
    if y is None or not y.size or (y.ndim > 1 and y.dtype.kind == "f"):  # values by position are no classes
        return
    counted = y if y.ndim == 1 else y[y != IGNORE]
    if counted.size and (counted.min() < 0 or counted.max() >= num_classes):
        raise DataError(
            f"data set {name!r}, {part}: labels run from {counted.min()} to {counted.max()}, expected 0 to "
            f"{num_classes - 1}; renumber the labels or correct num_classes"
        )


def _check_groups(name: str, part: str, samples: Samples, num_groups: int) -> None:
    groups = samples.groups
    if groups is None:
        return
    if groups.shape != (len(samples),) or not np.issubdtype(groups.dtype, np.integer):
        raise DataError(
            f"data set {name!r}, {part}: groups are {groups.dtype} of shape {groups.shape}, expected one whole number "
            f"for each of {len(samples)} samples"
        )
    if len(groups) and (groups.min() < 0 or groups.max() >= num_groups):
        raise DataError(
            f"data set {name!r}, {part}: groups run from {groups.min()} to {groups.max()}, expected 0 to "
            f"{num_groups - 1}; renumber them or correct num_groups"
        )

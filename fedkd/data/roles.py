"""Which roles a client's private samples play: with labels, without, held out, coming by at test time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fedkd.checks import check_range, numbers_in
from fedkd.data.base import ClientData, Oracle, Samples
from fedkd.data.subset import split_off
from fedkd.errors import ConfigError, DataError
from fedkd.types import Ids

_UNNAMED = "every private sample is labelled training data"


@dataclass(frozen=True, kw_only=True)
class RolesConfig:
    """How private samples are dealt to roles. As it stands, all of them are labelled training samples.

    In this order: the stream is taken from all samples; of the rest, classes that are no target lose their labels, then
    all but `labelled` samples of each target class; the validation share is held out of what still has labels.
    """

    stream: float = 0.0  # share of the private samples that come by once, at test time, without labels; 0..1
    targets: str = ""  # classes that have labels, such as "0,1"; samples of others are unlabelled; "" all classes
    labelled: int = 0  # samples of each class that keep their labels; the others are unlabelled; 0 leaves all labelled
    val: float = 0.0  # share of the labelled samples held out for choices made while training; 0..1
    budget: int = 0  # labels that a client may ask for, of its unlabelled samples, in the whole run

    def __post_init__(self) -> None:
        check_range("stream", self.stream, low=0.0, below=1.0)
        check_range("labelled", self.labelled, low=0)
        check_range("val", self.val, low=0.0, below=1.0)
        check_range("budget", self.budget, low=0)
        _ = self.target_classes
        if self.budget and not self.hides_labels:
            raise ConfigError(
                f"is {self.budget}, but {_UNNAMED}; set roles.labelled or roles.targets, so that there is a pool to "
                "ask about",
                key="budget",
            )

    @property
    def target_classes(self) -> Ids | None:
        """The classes in `targets`, ascending; None where all are."""
        if not self.targets.strip():
            return None
        return np.array(sorted(numbers_in("targets", self.targets)), np.int64)

    @property
    def hides_labels(self) -> bool:
        """Whether some samples are unlabelled."""
        return bool(self.labelled or self.targets.strip())

    @property
    def given(self) -> frozenset[str]:
        """The roles that a client's data have."""
        found = {"train", "test"}
        found |= {"unlabelled"} if self.hides_labels else set()
        found |= {"pool"} if self.budget else set()
        found |= {"val"} if self.val else set()
        return frozenset(found | ({"stream", "source"} if self.stream else set()))


def deal(client_id: int, private: Samples, test: Samples, plan: RolesConfig, rng: np.random.Generator) -> ClientData:
    """The client's data by role. What loses its labels keeps its groups, the true classes: for diagnostics alone.

    `source` is the training set under another name, for methods that speak of the domain before the stream; `pool` is
    the unlabelled set, with an oracle.

    Raises:
        DataError: samples have no single class where targets are named, or the stream or the targets leave no sample to
            train on.
    """
    roles, oracle = {"test": test}, None
    rest = np.arange(len(private))
    if plan.stream:
        count = round(plan.stream * len(private))
        coming = np.sort(rng.choice(len(private), count, replace=False))
        rest = np.setdiff1d(rest, coming)
        if count and not len(rest):
            raise DataError(
                f"client {client_id} has {len(private)} private samples, and roles.stream = {plan.stream:g} takes "
                f"{count} of them, so that none is left to train on; lower roles.stream, or take another partition or "
                "fewer clients"
            )
        roles["stream"] = _without_labels(private.take(coming))
    named = _named(private, rest, plan, rng)
    if plan.hides_labels:
        hidden = np.setdiff1d(rest, named)
        roles["unlabelled"] = _without_labels(private.take(hidden))
        if plan.budget:
            roles["pool"] = roles["unlabelled"]
            oracle = Oracle(private.take(hidden).labels, plan.budget)
    train = private.take(named)
    if plan.val:
        kept, held_out = split_off(train.strata, plan.val, "val", rng=rng)
        roles["val"], train = train.take(held_out), train.take(kept)
    if not len(train):
        raise DataError(
            f"client {client_id} has {len(private)} private samples, but none with a label is left to train on; "
            "expected samples of the classes that roles.targets names: name others, or take another partition"
        )
    roles["train"] = train
    if plan.stream:
        roles["source"] = train
    return ClientData(client_id, roles, seen=plan.target_classes, oracle=oracle)


def _named(private: Samples, rest: Ids, plan: RolesConfig, rng: np.random.Generator) -> Ids:
    """Positions, of `rest`, of the samples that keep their labels, ascending."""
    if not plan.hides_labels:
        return rest
    if private.y is None or private.y.ndim != 1:
        raise DataError(
            "roles.targets and roles.labelled need a class for each sample, and these samples have none; leave them out"
        )
    classes, targets = private.y[rest], plan.target_classes
    found = [rest[:0]]  # a client without samples has no classes either
    for number in np.unique(classes) if targets is None else targets:
        of_class = rest[classes == number]
        found.append(rng.permutation(of_class)[: plan.labelled or len(of_class)])
    return np.sort(np.concatenate(found))


def _without_labels(samples: Samples) -> Samples:
    return replace(samples.inputs(), groups=samples.strata)

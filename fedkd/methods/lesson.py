"""A round of training as data: what a stack of clients needs to know to train them side by side.

A trainer describes its `fit` once more by a lesson where that is possible: losses by sample, plain batches, stochastic
gradient descent. `fedkd.methods.stacked_training` carries lessons out; that the two agree is tested.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from torch import Tensor
from torch.nn import functional

from fedkd.functional.losses import wide
from fedkd.methods.base import Context, State
from fedkd.methods.local_training import DISTIL_LOSS, PRIVATE_LOSS, RowsLoss, lr_factor, round_batches
from fedkd.methods.taught import Taught
from fedkd.models.optimizers import OptimizerState
from fedkd.models.twins import Descent
from fedkd.types import Array, Ids, Metrics

Companions: TypeAlias = Mapping[str, Tensor]  # what is known of the samples of a batch, by name
TermLoss: TypeAlias = Callable[[Tensor, Companions], Tensor]  # logits (n, c) -> losses (n,), row by row

_ROOM = 8  # batches of clients with less data than one batch are filled up to a multiple of it


@dataclass(frozen=True, eq=False, kw_only=True)
class Term:
    """A part of a loss: the mean of `rows` over the samples for which the companion `keep` is true ("": over all)."""

    rows: TermLoss
    keep: str = ""
    weight: float = 1.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Material:
    """What one kind of batch is cut from.

    Attributes:
        name: of its mean loss in the metrics.
        x: (n, ...) inputs.
        companions: (n', ...) targets, labels and masks by name.
        batch: samples that each batch takes up; a shorter one is filled up with some that count for nothing. It depends
            on this client alone, so that its numbers do not depend on whom it is trained beside.
        at: (n',) the input of each of them; None where they are the same.
        weight: of its loss in the step; the metrics have the loss without it.
    """

    name: str
    x: Array
    companions: Mapping[str, Array]
    terms: tuple[Term, ...]
    batch: int
    at: Ids | None = None
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Phase:
    """Steps of one kind: each takes one batch of each material, as positions in its companions."""

    materials: tuple[Material, ...]
    batches: tuple[tuple[Ids, ...], ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Lesson:
    """One client's round.

    Attributes:
        key: equal for lessons with the same phases, terms and rates, which may be carried out together.
        keeps_answers: whether the logits that it trained on are wanted back.
    """

    weights: Mapping[str, Tensor]
    optimizer: OptimizerState
    phases: tuple[Phase, ...]
    rates: tuple[float, ...]  # learning rate of each step, or one for all
    descent: Descent
    key: Hashable
    keeps_answers: bool = False

    def rate(self, number: int) -> float:
        """The learning rate of a step, counted over all phases."""
        return self.rates[number] if len(self.rates) > 1 else self.rates[0]


@dataclass(frozen=True, eq=False, kw_only=True)
class Learned:
    """What came of a lesson. `answers` are the logits (n, c) of all samples trained on, in the order of the batches."""

    weights: dict[str, Tensor]
    optimizer: OptimizerState
    metrics: Metrics
    answers: Tensor | None = None


def can_be_told(ctx: Context) -> bool:
    """Whether lessons cover this client's task, data and optimiser: classification of one float input, by SGD."""
    train = ctx.data.train
    is_plain = ctx.task.name == "classification" and not train.more and train.x.dtype == np.float32
    return is_plain and ctx.schedule.optimizer == "sgd"


def cross_entropy_term() -> Term:
    """The private loss of classification, of the companion `y`."""
    return Term(rows=lambda logits, known: functional.cross_entropy(wide(logits), known["y"], reduction="none"))


def private_material(ctx: Context, *terms: Term, weight: float = 1.0, **companions: Array) -> Material:
    """The client's private samples, with their classes as `y` and further companions."""
    train = ctx.data.train
    known = {"y": train.labels.astype(np.int64, copy=False), **companions}
    batch = _room(ctx.schedule.private_batch, len(train))
    return Material(name=PRIVATE_LOSS, x=train.x, companions=known, terms=terms, batch=batch, weight=weight)


def distil_material(ctx: Context, taught: Taught, rows_loss: RowsLoss, *, weight: float = 1.0) -> Material:
    """The proxy samples that something is known about, one row each."""
    assert ctx.proxy is not None  # whoever is taught has a proxy
    term = Term(rows=lambda logits, known: rows_loss(logits, known["target"]))
    return Material(
        name=DISTIL_LOSS,
        x=ctx.proxy.samples.x,
        companions={"target": taught.rows.values},
        terms=(term,),
        batch=_room(ctx.schedule.distil_batch, len(taught)),
        at=taught.sample_ids,
        weight=weight,
    )


def lesson_of(
    ctx: Context,
    state: State,
    *,
    order: str,
    private: Material,
    distil: Material | None = None,
    keeps_answers: bool = False,
) -> Lesson | None:
    """The round that `train_round` would train with these losses; None where it has no step.

    Expects `student` and `optimizer` in the state, as `student_optimizer` makes it.
    """
    plan = ctx.schedule
    num_targets = 0 if distil is None else len(distil.companions["target"])
    planned = round_batches(ctx, order, num_targets=num_targets, is_taught=distil is not None)
    own, given = tuple(planned.private), tuple(planned.distil)
    if not planned.steps:
        return None
    if order == "joint" and own and given:
        assert distil is not None
        phases = [Phase((private, distil), tuple(zip(own, given, strict=True)))]
    else:
        phases = [Phase((private,), tuple((index,) for index in own))]
        if distil is not None:
            phases.append(Phase((distil,), tuple((index,) for index in given)))
        if order == "distil_then_private":
            phases.reverse()
    phases = [phase for phase in phases if phase.batches]
    rates: tuple[float, ...] = (plan.lr_at(ctx.round_id),)
    if not plan.is_constant:
        rates = tuple(rates[0] * lr_factor(ctx, number, planned.steps) for number in range(planned.steps))
    names = tuple(tuple((m.name, m.weight, m.batch) for m in phase.materials) for phase in phases)
    return Lesson(
        weights=state["student"],
        optimizer=state["optimizer"],
        phases=tuple(phases),
        rates=rates,
        descent=Descent(momentum=plan.momentum, weight_decay=plan.weight_decay, clip_norm=plan.clip_norm),
        key=(names, rates),
        keeps_answers=keeps_answers,
    )


def _room(batch: int, samples: int) -> int:
    """What batches of so many samples take up: all of a few sizes, so that clients with little data fit together."""
    return min(batch, -(-samples // _ROOM) * _ROOM)

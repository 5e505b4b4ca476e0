"""The training loop that trainers share: private batches, distillation batches, or both in a step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn, optim

from fedkd.functional.batching import batch_starts
from fedkd.functional.losses import masked_mean
from fedkd.methods.base import Context
from fedkd.methods.taught import Taught
from fedkd.models.optimizers import make_optimizer
from fedkd.tasks.resident import sent
from fedkd.types import Ids, Metrics

Loss: TypeAlias = Callable[[Ids], Tensor]  # the loss on a batch, given positions in its data
RowsLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # student rows (m, c), targets (m, c) -> losses (m,)
ORDERS = ("distil_then_private", "private_then_distil", "joint")
PRIVATE_LOSS, DISTIL_LOSS = "private_loss", "distil_loss"  # names of the mean losses of a round


@dataclass(frozen=True, eq=False, kw_only=True)
class ParamGroup:
    """Parameters that are trained with settings of their own."""

    parameters: Sequence[nn.Parameter]
    lr_scale: float = 1.0  # their learning rate, as a multiple of schedule.lr
    weight_decay: float | None = None  # None: schedule.weight_decay


def student_optimizer(ctx: Context, *modules: nn.Module, groups: Sequence[ParamGroup] = ()) -> optim.Optimizer:
    """The optimiser of `schedule.*` over the parameters of the modules, and over further groups of parameters."""
    plan = ctx.schedule
    lr = plan.lr_at(ctx.round_id)
    own = list(nn.ModuleList(modules).parameters())  # each once, though modules may share some
    every: list[dict[str, Any]] = [{"params": own}] if own else []
    for group in groups:
        decay = plan.weight_decay if group.weight_decay is None else group.weight_decay
        every.append({"params": list(group.parameters), "lr": lr * group.lr_scale, "weight_decay": decay})
    return make_optimizer(
        plan.optimizer,
        every,
        lr=lr,
        momentum=plan.momentum,
        weight_decay=plan.weight_decay,
    )


def batches(rng: np.random.Generator, size: int, batch: int, steps: int) -> Iterator[Ids]:
    """`steps` batches of positions in range(size): one shuffled pass after another, cut as `batch_starts` says."""
    done = 0
    while size and done < steps:
        order = rng.permutation(size)
        for start in batch_starts(size, batch):
            if done == steps:
                return
            yield order[start : start + batch]
            done += 1


@dataclass(frozen=True, eq=False)
class RoundBatches:
    """What a client trains on in a round: batches of positions in its private data, and in what it is taught."""

    private: Iterator[Ids]
    distil: Iterator[Ids]
    steps: int  # of both together, where a step of `joint` takes one of each


def round_batches(ctx: Context, order: str, *, num_targets: int, is_taught: bool) -> RoundBatches:
    """The batches of this round, in the client's own order; see `train_round` for who has steps when."""
    plan = ctx.schedule
    size = len(ctx.data.train)
    waits = order == "joint" and ctx.round_id == 0 and not is_taught
    private_steps = 0 if ctx.closing or waits else plan.num_private_steps(size)
    if not is_taught:
        distil_steps = 0
    else:
        distil_steps = plan.num_private_steps(size) if order == "joint" else plan.num_distil_steps(num_targets)
    private = batches(ctx.rng("private-order"), size, plan.private_batch, private_steps)
    distil = batches(
        ctx.rng("distil-order"),
        num_targets,
        plan.distil_batch,
        min(distil_steps, 1) if plan.repeat_batch else distil_steps,
    )
    if plan.repeat_batch:
        distil = itertools.chain.from_iterable(itertools.repeat(index, distil_steps) for index in distil)
    steps = max(private_steps, distil_steps) if order == "joint" else private_steps + distil_steps
    return RoundBatches(private, distil, steps)


def lr_factor(ctx: Context, number: int, steps: int) -> float:
    """What the learning rate of step `number` of `steps` is multiplied by.

    The closing message takes the last round's rates once more: there is no run left for it.
    """
    return ctx.schedule.lr_factor(ctx.progress_at(number / steps - ctx.closing), step=1 / (steps * ctx.rounds))


def private_loss(ctx: Context, model: nn.Module) -> Loss:
    """The task's loss on private samples, mean over the valid targets of the batch."""
    train = ctx.data.train

    def loss(index: Ids) -> Tensor:
        return ctx.task.loss(model, ctx.task.batch(train, index, ctx.device))

    return loss


def distil_loss(ctx: Context, model: nn.Module, taught: Taught, rows_loss: RowsLoss) -> Loss:
    """Mean of `rows_loss` of the student's rows against the taught ones, over all taught rows of a batch of samples."""
    assert ctx.proxy is not None  # whoever is taught has a proxy
    samples = ctx.proxy.samples

    def loss(index: Ids) -> Tensor:
        known = taught.batch(index)
        rows = ctx.task.logits(model, ctx.task.batch(samples, known.sample_ids, ctx.device))
        student = rows[sent(known.sample, ctx.device), sent(known.position, ctx.device)]
        losses = rows_loss(student, sent(known.values, ctx.device))
        return masked_mean(losses, torch.ones_like(losses, dtype=torch.bool))

    return loss


def step(optimizer: optim.Optimizer, loss: Tensor, *, clip_norm: float = 0.0) -> None:
    """One step of the optimiser down the gradient of `loss`, whose norm over all its parameters is clipped if asked."""
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    if clip_norm:
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip_norm)
    optimizer.step()


def mean_losses(steps: Mapping[str, Sequence[Tensor]]) -> Metrics:
    """The mean of each series of losses that has any.

    One transfer for all: reading each loss as it comes would wait for the device at every step.
    """
    return {name: float(torch.stack(list(values)).detach().mean()) for name, values in steps.items() if values}


def train_round(
    ctx: Context,
    model: nn.Module,
    optimizer: optim.Optimizer,
    *,
    order: str,
    private: Loss,
    distil: Loss | None,
    num_targets: int,
    private_weight: float = 1.0,
    kd_weight: float = 1.0,
    before_step: Callable[[float], None] | None = None,
    after_step: Callable[[], None] | None = None,
) -> Metrics:
    """One round in the given order; the mean losses (unweighted), absent where no step of that kind was taken.

    Args:
        model: what is put into training mode; several modules go in an `nn.ModuleList`.
        num_targets: samples that `distil` knows something about.
        before_step: called before each step with the share of the run that lies behind it, 0..1.

    `joint` takes one private and one distillation batch in each step, for as many steps as the private schedule has.
    Its first round takes no step: there is nothing yet to join, and a model that starts on its own few classes
    saturates and later collapses under the first aggregate (MNIST, one class each, validation split: 0.62 after ten
    rounds, against 0.97 after eight).
    Otherwise only the private part is trained without knowledge, and only the distillation part in the closing message.
    """
    plan = ctx.schedule
    planned = round_batches(ctx, order, num_targets=num_targets, is_taught=distil is not None)
    losses: dict[str, list[Tensor]] = {PRIVATE_LOSS: [], DISTIL_LOSS: []}
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    model.train()
    for number, (private_index, distil_index) in enumerate(_in_order(order, planned.private, planned.distil)):
        if before_step:
            before_step(ctx.progress_at(number / planned.steps))
        if not plan.is_constant:
            factor = lr_factor(ctx, number, planned.steps)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        terms = []
        if private_index is not None:
            loss = private(private_index)
            losses[PRIVATE_LOSS].append(loss.detach())  # its graph must not outlive the step
            terms.append(private_weight * loss)
        if distil is not None and distil_index is not None:
            loss = distil(distil_index)
            losses[DISTIL_LOSS].append(loss.detach())
            terms.append(kd_weight * loss)
        step(optimizer, torch.stack(terms).sum(), clip_norm=plan.clip_norm)
        if after_step:
            after_step()
    return mean_losses(losses)


def _in_order(order: str, private: Iterator[Ids], distil: Iterator[Ids]) -> Iterator[tuple[Ids | None, Ids | None]]:
    """What each step trains on: (private batch, distillation batch), None for neither."""
    if order == "joint":
        yield from itertools.zip_longest(private, distil)
        return
    phases = [((index, None) for index in private), ((None, index) for index in distil)]
    yield from itertools.chain.from_iterable(phases if order == "private_then_distil" else reversed(phases))

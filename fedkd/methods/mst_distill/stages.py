"""Stages 1 and 2 of MST-Distill on modules and tensors: co-training, and the masks of the specialised teachers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn, optim

from fedkd.functional.mst_distill import cotraining_loss, mask_loss, softened_kl_rows
from fedkd.methods.local_training import step
from fedkd.methods.mst_distill.loops import Streams, answers, epoch, mean_of, other
from fedkd.methods.mst_distill.mixture import Networks, Pairs, Specialists
from fedkd.models.frozen import frozen
from fedkd.models.pool import snapshot
from fedkd.tasks.batches import needed
from fedkd.tasks.calls import ask
from fedkd.types import Ids


def cotrain(
    networks: Networks,
    train: Pairs,
    optimizer: optim.Optimizer,
    *,
    epochs: int,
    batch: int,
    rng: Streams,
    temperature: float,
) -> list[float]:
    """Stage 1: T, A and S learn from labels and from each other, in one optimiser. The mean loss of each epoch."""
    for model in networks.modules():
        model.train()
    generator = rng("cotrain-order")
    history = []
    for _ in range(epochs):
        losses = []
        for index in epoch(generator, len(train), batch):
            some = train.at(index)
            loss = cotraining_loss(networks.logits(some.a, other(some)), needed(some.y), temperature=temperature)
            step(optimizer, loss)
            losses.append(loss.detach())
        history.append(mean_of(losses))
    return history


def train_masks(
    student: nn.Module,
    specialists: Specialists,
    train: Pairs,
    val: Pairs | None,
    optimizers: Sequence[optim.Optimizer],
    *,
    epochs: int,
    batch: int,
    rng: Streams,
    temperature: float,
) -> list[list[float]]:
    """Stage 2: each mask alone pulls its teacher towards the student. Each epoch's validation divergences, by mask.

    The masks end as they were in the epoch with the lowest sum of these; without validation samples as in the last.
    `optimizers`: one per mask. T, A and S are frozen and do not change. Deviation: a divergence is the mean over
    samples, where the authors average the means of batches.
    """
    masks = specialists.masks
    generator = rng("mask-order")
    history: list[list[float]] = []
    best, kept = math.inf, None
    with frozen(student, specialists.teacher, specialists.auxiliary):
        for _ in range(epochs):
            for mask in masks:
                mask.train()
            for index in epoch(generator, len(train), batch):
                some = train.at(index)
                with torch.no_grad():
                    target = ask(student, some.a)
                for number, optimizer in enumerate(optimizers):
                    answer = specialists.alone(number, some.a, other(some))
                    step(optimizer, mask_loss(answer, target, temperature=temperature))
            if val is None or not len(val):
                continue
            history.append(mask_divergences(student, specialists, val, batch=batch, temperature=temperature))
            if sum(history[-1]) < best:
                best, kept = sum(history[-1]), [snapshot(mask) for mask in masks]
    for mask, weights in zip(masks, kept or [], strict=kept is not None):
        mask.load_state_dict(weights)
    for mask in masks:
        mask.eval()
    return history


def mask_divergences(
    student: nn.Module, specialists: Specialists, data: Pairs, *, batch: int, temperature: float
) -> list[float]:
    """KL4(t_j, S(a)) of each specialised teacher with its mask alone: the mean over samples, in evaluation mode."""

    def rows(index: Ids) -> Tensor:
        some = data.at(index)
        target, numbers = ask(student, some.a), range(len(specialists))
        said = [specialists.alone(number, some.a, other(some)) for number in numbers]
        return torch.stack([softened_kl_rows(answer, target, temperature=temperature) for answer in said], dim=1)

    with frozen(student, specialists.teacher, specialists.auxiliary, *specialists.masks):
        means: list[float] = answers(rows, len(data), batch).mean(0).tolist()
    return means

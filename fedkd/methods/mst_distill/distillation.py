"""Stage 3 of MST-Distill on modules and tensors: the student and the gate learn from a mixture of frozen teachers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn, optim

from fedkd.errors import ConfigError
from fedkd.functional.batching import batch_starts
from fedkd.functional.mst_distill import (
    LOAD_BALANCE,
    decayed,
    gate_probs,
    mixture_loss,
    routed_loss,
    routing_frequency,
    task_loss,
)
from fedkd.methods.local_training import batches, step
from fedkd.methods.mst_distill.config import MSTDistillConfig
from fedkd.methods.mst_distill.loops import Streams, answers, epoch, mean_of
from fedkd.methods.mst_distill.mixture import Paired, ProxyItems, Specialists
from fedkd.models.frozen import frozen
from fedkd.models.pool import snapshot
from fedkd.types import Ids, Metrics


@dataclass(frozen=True, eq=False)
class Distilled:
    """What stage 3 found.

    Attributes:
        weights: the student's, of the epoch with the lowest validation loss (the last one without validation samples).
            The module itself holds those of the last epoch, with which training goes on.
        val_losses: the student's cross-entropy on the validation samples after each epoch; empty without such.
        metrics: mean task_loss, kl_loss, lb_loss of each epoch on private batches, and proxy_kl_loss, proxy_lb_loss.
        routing: of each epoch, the share of picks (soft: of q) that each teacher got, the aggregate last.
    """

    weights: dict[str, Tensor]
    val_losses: list[float] = field(default_factory=list)
    metrics: list[Metrics] = field(default_factory=list)
    routing: list[list[float]] = field(default_factory=list)


def distil(
    student: nn.Module,
    gate: nn.Module,
    specialists: Specialists | None,
    train: Paired,
    val: Paired | None,
    optimizer: optim.Optimizer,
    *,
    config: MSTDistillConfig,
    epochs: int,
    batch: int,
    rng: Streams,
    proxy: ProxyItems | None = None,
    proxy_batch: int = 64,
    first_epoch: int = 0,
) -> Distilled:
    """Stage 3: the student learns from labels and from the teachers that the gate picks for each sample.

    With `proxy`, each step also takes a proxy batch, on which the aggregate z_bar is one more teacher (the gate's last
    output); T and A take part there only where the proxy set is paired. `specialists` is None for a client with one
    modality: labels and z_bar remain. Without private samples the proxy alone is learnt. `first_epoch`: stage-3 epochs
    already done, for the decay of the weights. The aggregate as a teacher is ours; the paper is not federated.

    Raises:
        ConfigError: the gate has another number of outputs than there are teachers.
    """
    teachers = () if specialists is None else (specialists.teacher, specialists.auxiliary, *specialists.masks)
    count = 0 if specialists is None else len(specialists)
    result = Distilled(weights=snapshot(student))
    best = math.inf
    private_rng, proxy_rng = rng("private-order"), rng("proxy-order")
    with frozen(*teachers):
        on_private = _teachers_of(specialists, train.a, train.b, batch, cache=config.cache_teachers)
        on_proxy = None
        if proxy is not None:
            on_proxy = _teachers_of(specialists, proxy.a, proxy.b, batch, cache=config.cache_teachers)
        for number in range(first_epoch, first_epoch + epochs):
            student.train()
            gate.train()
            meter = _Meter(torch.zeros(count + 1, device=train.a.device))
            weights = (
                decayed(config.w_kl, epoch=number, factor=config.kl_decay, every=config.kl_every),
                decayed(config.w_lb, epoch=number, factor=config.lb_decay, every=config.lb_every),
            )
            steps = len(batch_starts(len(train), batch)) or len(batch_starts(len(proxy or ()), proxy_batch))
            proxy_batches = batches(proxy_rng, len(proxy or ()), proxy_batch, steps)
            for index, proxy_index in itertools.zip_longest(epoch(private_rng, len(train), batch), proxy_batches):
                terms = []
                if index is not None:
                    some = train.at(index)
                    said = student(some.a)
                    terms.append(config.w_task * meter.note("task_loss", task_loss(said, some.y)))
                    if on_private is not None:
                        columns = slice(0, count)
                        terms.append(_mixture(said, gate, on_private(index), columns, config, weights, meter, ""))
                if proxy is not None and proxy_index is not None:
                    at = torch.from_numpy(proxy_index)
                    said, offered, columns = student(proxy.a[at]), proxy.z_bar[at][None], slice(count, count + 1)
                    if on_proxy is not None:
                        offered = torch.cat([on_proxy(proxy_index).to(offered.dtype), offered])
                        columns = slice(0, count + 1)
                    terms.append(_mixture(said, gate, offered, columns, config, weights, meter, "proxy_"))
                step(optimizer, torch.stack(terms).sum())
            result.metrics.append(meter.means())
            result.routing.append(meter.shares())
            if val is not None and len(val):
                result.val_losses.append(validation_loss(student, val, batch=batch))
                if not result.val_losses[-1] < best:
                    continue
                best = result.val_losses[-1]
            elif number < first_epoch + epochs - 1:
                continue
            result.weights.update(snapshot(student))
    return result


def validation_loss(student: nn.Module, data: Paired, *, batch: int) -> float:
    """The student's mean cross-entropy, in evaluation mode."""
    with frozen(student):
        logits = answers(lambda index: student(data.at(index).a), len(data), batch)
    return float(task_loss(logits, data.y))


@dataclass(eq=False)
class _Meter:
    """Sums of an epoch; tensors until its end, since reading each would wait for the device."""

    routed: Tensor
    losses: dict[str, list[Tensor]] = field(default_factory=dict)

    def note(self, name: str, loss: Tensor) -> Tensor:
        self.losses.setdefault(name, []).append(loss.detach())
        return loss

    def means(self) -> Metrics:
        return {name: mean_of(losses) for name, losses in self.losses.items()}

    def shares(self) -> list[float]:
        shares: list[float] = (self.routed / self.routed.sum().clamp_min(1)).tolist()
        return shares


def _mixture(
    said: Tensor,
    gate: nn.Module,
    teachers: Tensor,
    columns: slice,
    config: MSTDistillConfig,
    weights: tuple[float, float],
    meter: _Meter,
    where: str,
) -> Tensor:
    """w_kl L_kd + w_lb L_lb of one batch, among the teachers that the gate's `columns` stand for."""
    logits = gate(said.detach() if config.detach_gate else said)[:, columns]
    if logits.shape[1] != len(teachers):
        raise ConfigError(
            f"the gate has {logits.shape[1]} outputs for {len(teachers)} teachers; build it with one output per masked "
            "layer and, in a federation, one more for the aggregate"
        )
    q = gate_probs(logits)
    temperature = config.temperature
    if config.routing == "soft":
        kl = mixture_loss(said, teachers, q, gate_grad=config.gate_grad, temperature=temperature)
        shares, weight = q.detach().mean(0), len(q)
    else:
        kl, picks = routed_loss(said, teachers, q, k=config.k, gate_grad=config.gate_grad, temperature=temperature)
        shares, weight = routing_frequency(picks, num_teachers=len(teachers)), picks.numel()
    meter.routed[columns] += shares.to(meter.routed) * weight
    balance = LOAD_BALANCE[config.lb_mode](q)
    w_kl, w_lb = weights
    return w_kl * meter.note(f"{where}kl_loss", kl) + w_lb * meter.note(f"{where}lb_loss", balance)


def _teachers_of(
    specialists: Specialists | None, a: Tensor, b: Tensor | None, batch: int, *, cache: bool
) -> Callable[[Ids], Float[Tensor, "e n c *at"]] | None:
    """What the specialised teachers say at given positions; None where there are none, or only one modality."""
    if specialists is None or b is None:
        return None

    @torch.no_grad()
    def answer(index: Ids) -> Tensor:
        at = torch.from_numpy(index)
        return specialists.logits(a[at], b[at])

    if not cache or not len(a):
        return answer
    # Frozen networks in evaluation mode say the same in every epoch.
    known = answers(lambda index: answer(index).transpose(0, 1), len(a), batch).transpose(0, 1)
    return lambda index: known[:, torch.from_numpy(index)]

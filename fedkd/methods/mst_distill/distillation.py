"""Stage 3 of MST-Distill on modules and tensors: student and gate learn from a mixture of frozen teachers."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedkd.errors import ConfigError
from fedkd.functional.losses import target_cross_entropy
from fedkd.functional.mst_distill import (
    LOAD_BALANCE,
    decayed,
    gate_probs,
    mixture_loss,
    routed_loss,
    routing_frequency,
)
from fedkd.methods.local_training import mean_losses
from fedkd.methods.mst_distill.config import MSTDistillConfig
from fedkd.methods.mst_distill.loops import answers
from fedkd.methods.mst_distill.mixture import Pairs, Specialists
from fedkd.methods.taught import Taught
from fedkd.models.frozen import frozen
from fedkd.tasks.batches import needed
from fedkd.tasks.calls import ask
from fedkd.types import Ids, Metrics


@final
class Distillation:
    """The losses of stage 3 in one round, and what they were.

    The aggregate z_bar of the federation is one more teacher, the gate's last output. On private batches it is absent;
    T and A are absent on proxy items that lack their modality, and everywhere where `specialists` is None: then labels
    and z_bar remain. The aggregate as a teacher is ours; the paper is not federated.

    Args:
        done: private steps of all rounds before; with `per_epoch` steps a pass they tell the epoch, by which w_kl and
            w_lb decay.
        taught: what the federation says about samples of `proxy`: logits, or log-probabilities.
        remember: the teachers answer once, for steps to come: worth it where a round has several passes.
    """

    def __init__(
        self,
        student: nn.Module,
        gate: nn.Module,
        specialists: Specialists | None,
        *,
        config: MSTDistillConfig,
        train: Pairs,
        done: int = 0,
        per_epoch: int = 1,
        proxy: Pairs | None = None,
        taught: Taught | None = None,
        remember: bool = False,
        batch: int = 64,
    ) -> None:
        self.student, self.gate, self.specialists, self.config = student, gate, specialists, config
        self.train, self.done, self.per_epoch = train, done, per_epoch
        self.proxy, self.taught = proxy, taught
        self.count = 0 if specialists is None else len(specialists)
        self._on_train = _teachers_of(specialists, train, np.arange(len(train)), batch, remember=remember)
        self._on_proxy = None
        if proxy is not None and taught is not None:
            self._on_proxy = _teachers_of(specialists, proxy, taught.sample_ids, batch, remember=remember)
        self._losses: dict[str, list[Tensor]] = {}
        self._routed: Tensor | None = None

    @property
    def epoch(self) -> int:
        """The pass over the private samples that the latest private step belongs to, from 0 over all rounds."""
        return max(0, self.done - 1) // self.per_epoch

    def on_private(self, index: Ids) -> Tensor:
        """L3 on private samples: w_task CE + w_kl L_kd + w_lb L_lb."""
        self.done += 1
        some = self.train.at(index)
        said = ask(self.student, some.a)
        loss = self.config.w_task * self._note("task_loss", target_cross_entropy(said, needed(some.y)))
        if self._on_train is None:
            return loss
        return loss + self._mixture(said, self._on_train(index), slice(0, self.count), "")

    def on_proxy(self, index: Ids) -> Tensor:
        """w_kl L_kd + w_lb L_lb on samples that the federation has spoken about, z_bar among the teachers."""
        assert self.proxy is not None  # whoever asks has a proxy set
        assert self.taught is not None  # and knowledge
        known = self.taught.batch(index)
        some = self.proxy.at(known.sample_ids)
        said = ask(self.student, some.a)
        offered, columns = torch.from_numpy(known.values).to(said.device)[None], slice(self.count, self.count + 1)
        if self._on_proxy is not None:
            offered = torch.cat([self._on_proxy(index).to(offered.dtype), offered])
            columns = slice(0, self.count + 1)
        return self._mixture(said, offered, columns, "proxy_")

    def metrics(self) -> Metrics:
        """Means of the losses; `routing/<j>`, teacher j's share of picks (soft: of q), the aggregate last."""
        found = mean_losses(self._losses)
        if self._routed is not None:
            shares = (self._routed / self._routed.sum().clamp_min(1)).tolist()
            found |= {f"routing/{number}": share for number, share in enumerate(shares, start=1)}
        return found

    def _mixture(self, said: Tensor, teachers: Tensor, columns: slice, where: str) -> Tensor:
        """w_kl L_kd + w_lb L_lb of one batch, among the teachers that the gate's `columns` stand for."""
        config = self.config
        logits = self.gate(said.detach() if config.detach_gate else said)[:, columns]
        if logits.shape[1] != len(teachers):
            raise ConfigError(
                f"the gate has {logits.shape[1]} outputs for {len(teachers)} teachers; build it with one output per "
                "masked layer and one more for the aggregate"
            )
        q = gate_probs(logits)
        if config.routing == "soft":
            kl = mixture_loss(said, teachers, q, gate_grad=config.gate_grad, temperature=config.temperature)
            shares, weight = q.detach().mean(0), len(q)
        else:
            # The control draws its teachers; the gate goes on learning the load balance, and nobody asks it.
            choice = torch.rand_like(q) if config.routing == "random" else q
            kl, picks = routed_loss(
                said, teachers, choice, k=config.k, gate_grad=config.gate_grad, temperature=config.temperature
            )
            shares, weight = routing_frequency(picks, num_teachers=len(teachers)), picks.numel()
        if self._routed is None:
            self._routed = torch.zeros(self.count + 1, device=said.device)
        self._routed[columns] += shares.to(self._routed) * weight
        balance = LOAD_BALANCE[config.lb_mode](q)
        w_kl = decayed(config.w_kl, epoch=self.epoch, factor=config.kl_decay, every=config.kl_every)
        w_lb = decayed(config.w_lb, epoch=self.epoch, factor=config.lb_decay, every=config.lb_every)
        return w_kl * self._note(f"{where}kl_loss", kl) + w_lb * self._note(f"{where}lb_loss", balance)

    def _note(self, name: str, loss: Tensor) -> Tensor:
        self._losses.setdefault(name, []).append(loss.detach())
        return loss


def validation_loss(student: nn.Module, data: Pairs, *, batch: int) -> float:
    """The student's mean cross-entropy, in evaluation mode."""

    def total(index: Ids) -> Tensor:
        some = data.at(index)
        return len(index) * target_cross_entropy(ask(student, some.a), needed(some.y))[None]

    with frozen(student):
        return float(answers(total, len(data), batch).sum()) / len(data)


def _teachers_of(
    specialists: Specialists | None, data: Pairs, ids: Ids, batch: int, *, remember: bool
) -> Callable[[Ids], Float[Tensor, "e n c"]] | None:
    """What the specialised teachers say about the samples `ids` at given positions of these.

    None where there are no such teachers, or the samples lack their modality.
    """
    if specialists is None or not len(ids) or data.at(ids[:1]).b is None:
        return None

    @torch.no_grad()
    def answer(index: Ids) -> Tensor:
        some = data.at(ids[index])
        assert some.b is not None  # all samples of a set have it, or none has
        return specialists.logits(some.a, some.b)

    if not remember:
        return answer
    # Frozen networks in evaluation mode say the same in every pass.
    known = answers(lambda index: answer(index).transpose(0, 1), len(ids), batch).transpose(0, 1)
    return lambda index: known[:, torch.from_numpy(index).to(known.device)]

"""The three stages of AdaSPEC: fine-tune the target, distil a reference, distil the draft on selected tokens.

Paper: Hu et al. 2025 (arXiv 2510.19779), sec. 3. All three are teacher-forced on given sequences; temperature 1, no
cross-entropy in stages 1 and 2. Optimisers come from outside, so that their state can be kept between rounds.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn, optim
from torch.nn import functional

from fedkd.functional.adaspec import label_mask, label_rows, select_tokens, selected_loss
from fedkd.functional.batching import batch_starts
from fedkd.functional.losses import masked_mean
from fedkd.methods.adaspec.causal import token_logits
from fedkd.methods.adaspec.config import AdaSpecConfig
from fedkd.methods.adaspec.corpus import Corpus, token_batches, token_sequences
from fedkd.methods.local_training import batches
from fedkd.models.frozen import frozen
from fedkd.types import Metrics

Totals: TypeAlias = dict[str, tuple[Tensor, Tensor]]  # name -> sum and number of what it averages
StepLoss: TypeAlias = Callable[[Tensor], tuple[Tensor, Totals]]  # positions (b,) -> loss and what to report


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """How long a stage is, and how it steps."""

    steps: int
    batch_size: int
    max_grad_norm: float = 1.0  # 0: gradients are not clipped


def target_plan(config: AdaSpecConfig, num_sequences: int) -> StagePlan:
    """Stage 0: passes over the sequences, or so many steps."""
    return _plan(config, num_sequences, steps=config.target_steps, epochs=config.target_epochs)


def reference_plan(config: AdaSpecConfig, num_sequences: int) -> StagePlan:
    """Stage 1: passes over the sequences, or so many steps."""
    return _plan(config, num_sequences, steps=config.reference_steps, epochs=config.reference_epochs)


def draft_plan(config: AdaSpecConfig, num_sequences: int) -> StagePlan:
    """Stage 2, as long as a stage without selection.

    `steps`, the authors' way (they divide epochs and batch by k): as many steps and, batches being 1 / k times as
    large, as many kept tokens per step; 1 / k times the sequences go forward. `samples`: as many steps on batches of
    the same size, so the same sequences go forward and k times the tokens are learnt from. The two are one where
    everything is kept.
    """
    plan = _plan(config, num_sequences, steps=config.draft_steps, epochs=config.draft_epochs)
    if config.budget_match == "samples" or config.select == "all":
        return plan
    larger = round(plan.batch_size / config.keep_share)
    return StagePlan(steps=plan.steps, batch_size=larger, max_grad_norm=plan.max_grad_norm)


def _plan(config: AdaSpecConfig, num_sequences: int, *, steps: int, epochs: float) -> StagePlan:
    passes = math.ceil(epochs * len(batch_starts(num_sequences, config.batch_size)))
    return StagePlan(steps=steps or passes, batch_size=config.batch_size, max_grad_norm=config.max_grad_norm)


def is_refresh_due(config: AdaSpecConfig, round_id: int) -> bool:
    """Whether the reference is trained anew in this round; always in round 0."""
    every = config.refresh_reference_every
    return round_id % every == 0 if every else round_id == 0


def adamw(model: nn.Module, *, lr: float, weight_decay: float) -> optim.AdamW:
    """AdamW that decays weights with two or more dimensions only: not biases, not the scales of normalisation."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return optim.AdamW([group for group in groups if group["params"]], lr=lr)


def start_reference(draft: nn.Module) -> nn.Module:
    """An untrained reference: a copy of the draft as it is now. From any other start, delta would be noise."""
    return copy.deepcopy(draft)


def fine_tune(
    target: nn.Module,
    optimizer: optim.Optimizer,
    ids: Tensor,
    labels: Tensor,
    *,
    plan: StagePlan,
    order_rng: np.random.Generator,
) -> Metrics:
    """Stage 0: cross-entropy on the label tokens, mean over a batch. Returns its mean per token as `target_loss`."""
    device = _device(target)

    def loss(at: Tensor) -> tuple[Tensor, Totals]:
        seen, wanted = ids[at].to(device), labels[at].to(device)
        rows = label_rows(token_logits(target, seen), wanted)
        values = functional.cross_entropy(rows, wanted[:, 1:][label_mask(wanted)], reduction="none")
        return _mean(values), {"target_loss": _total(values)}

    return _train(target, optimizer, loss, num_sequences=len(ids), plan=plan, order_rng=order_rng)


def train_reference(
    reference: nn.Module,
    optimizer: optim.Optimizer,
    corpora: Sequence[Corpus],
    *,
    plan: StagePlan,
    order_rng: np.random.Generator,
) -> Metrics:
    """Stage 1, which alone is DistillSpec: KL(target || reference), mean over all label tokens of a batch.

    Returns its mean per token as `reference_kl`. The corpora are drawn from as if they were one.
    """
    device = _device(reference)

    def loss(at: Tensor) -> tuple[Tensor, Totals]:
        parts = token_batches(corpora, at, device=device)
        values = torch.cat([part.divergence(reference) for part in parts])
        return _mean(values), {"reference_kl": _total(values)}

    num_sequences = sum(map(len, corpora))
    return _train(reference, optimizer, loss, num_sequences=num_sequences, plan=plan, order_rng=order_rng)


def train_draft(
    draft: nn.Module,
    reference: nn.Module,
    optimizer: optim.Optimizer,
    corpora: Sequence[Corpus],
    *,
    config: AdaSpecConfig,
    plan: StagePlan,
    order_rng: np.random.Generator,
    select_rng: np.random.Generator | None = None,
) -> Metrics:
    """Stage 2: KL(target || draft) on the tokens where the draft lags most behind the reference.

    Selection is by `config.select`, `keep_share` and `selection_scope`, the loss by `loss_norm`; neither the reference
    nor the selection carries a gradient. The corpora are drawn from as if they were one, and share one quantile.
    Deviation: no factor for several devices; a client has one.

    Args:
        select_rng: for `config.select` = random only.

    Returns:
        Over all steps `draft_kl` (mean over label tokens), `kept_share` (0..1), and the mean delta of kept and dropped
        tokens (`delta_kept`, `delta_dropped`; absent where there were none).
    """
    device = _device(draft)

    def loss(at: Tensor) -> tuple[Tensor, Totals]:
        parts = token_batches(corpora, at, device=device)
        values = torch.cat([part.divergence(draft) for part in parts])
        with torch.no_grad(), frozen(reference):
            delta = values.detach() - torch.cat([part.divergence(reference) for part in parts])
        keep = select_tokens(
            delta,
            keep_share=config.keep_share,
            select=config.select,
            sequence=token_sequences(parts) if config.selection_scope == "sequence" else None,
            rng=select_rng,
        )
        totals = {
            "draft_kl": _total(values),
            "kept_share": _total(keep.float()),
            "delta_kept": _total(delta[keep]),
            "delta_dropped": _total(delta[~keep]),
        }
        return selected_loss(values, keep, norm=config.loss_norm), totals

    num_sequences = sum(map(len, corpora))
    return _train(draft, optimizer, loss, num_sequences=num_sequences, plan=plan, order_rng=order_rng)


def _train(
    model: nn.Module,
    optimizer: optim.Optimizer,
    loss: StepLoss,
    *,
    num_sequences: int,
    plan: StagePlan,
    order_rng: np.random.Generator,
) -> Metrics:
    sums: dict[str, list[Tensor]] = {}
    model.train()
    for index in batches(order_rng, num_sequences, plan.batch_size, plan.steps):
        value, totals = loss(torch.from_numpy(index))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        if plan.max_grad_norm:
            nn.utils.clip_grad_norm_(model.parameters(), plan.max_grad_norm)
        optimizer.step()
        for name, total in totals.items():
            sums.setdefault(name, []).append(torch.stack(total))
    means = {name: torch.stack(parts).sum(0).tolist() for name, parts in sums.items()}
    return {name: total / number for name, (total, number) in means.items() if number}


def _mean(values: Tensor) -> Tensor:
    return masked_mean(values, torch.ones_like(values, dtype=torch.bool))


def _total(values: Tensor) -> tuple[Tensor, Tensor]:
    # Doubles: a stage may add up millions of tokens.
    return values.detach().double().sum(), torch.tensor(len(values), dtype=torch.double, device=values.device)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device

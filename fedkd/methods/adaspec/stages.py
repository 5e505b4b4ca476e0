"""The stages of AdaSPEC as losses on lessons, and how long each is.

Stage 0 fine-tunes the target by the task's own loss. Stage 1 distils a reference on all label tokens; alone it is
DistillSpec. Stage 2 distils the draft on selected tokens. All are teacher-forced on given sequences; temperature 1, no
cross-entropy in stages 1 and 2.

Paper: Hu et al. 2025 (arXiv 2510.19779), sec. 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.functional.adaspec import select_tokens, selected_loss
from fedkd.functional.losses import row_mean
from fedkd.methods.adaspec.config import AdaSpecConfig
from fedkd.methods.adaspec.lessons import Lessons
from fedkd.methods.local_training import Loss, ParamGroup
from fedkd.methods.schedule import ScheduleConfig
from fedkd.types import Ids, Metrics


def target_schedule(plan: ScheduleConfig, config: AdaSpecConfig) -> ScheduleConfig:
    """Stage 0: `config.target_epochs` passes over the private sequences, or `config.target_steps` batches."""
    return replace(plan, private_epochs=config.target_epochs, private_steps=config.target_steps)


def reference_schedule(
    plan: ScheduleConfig, config: AdaSpecConfig, *, rounds: int, num_private: int, num_heard: int
) -> ScheduleConfig:
    """Stage 1: as many steps, on batches as large, as so many rounds without selection have.

    Args:
        rounds: of the run.
        num_private, num_heard: sequences with private labels, and with knowledge.
    """
    times = config.reference_rounds or rounds
    return replace(
        plan,
        private_steps=times * plan.num_private_steps(num_private),
        distil_steps=times * plan.num_distil_steps(num_heard),
    )


def draft_schedule(plan: ScheduleConfig, config: AdaSpecConfig, *, num_private: int, num_heard: int) -> ScheduleConfig:
    """One round's part of stage 2, as long as one without selection.

    `budget_match` = steps, the authors' way (they divide epochs and batch by k): as many steps and, batches being 1 / k
    times as large, as many kept tokens per step; 1 / k times the sequences go forward. `samples`: as many steps on
    batches of the same size, so the same sequences go forward and k times the tokens are learnt from. The two are one
    where everything is kept.
    """
    if config.budget_match == "samples" or config.select == "all":
        return plan
    return replace(
        plan,
        private_steps=plan.num_private_steps(num_private),
        distil_steps=plan.num_distil_steps(num_heard),
        private_batch=round(plan.private_batch / config.keep_share),
        distil_batch=round(plan.distil_batch / config.keep_share),
    )


def is_refresh_due(config: AdaSpecConfig, age: int) -> bool:
    """Whether a reference that was trained `age` rounds ago is trained anew."""
    return 0 < config.refresh_reference_every <= age


def decay_groups(*models: nn.Module, lr_scale: float = 1.0) -> list[ParamGroup]:
    """Parameters for the optimiser: only those with two or more dimensions decay, no biases and no norms' scales."""
    every = list(nn.ModuleList(models).parameters())
    groups = [
        ParamGroup(parameters=[each for each in every if each.ndim >= 2], lr_scale=lr_scale),
        ParamGroup(parameters=[each for each in every if each.ndim < 2], lr_scale=lr_scale, weight_decay=0.0),
    ]
    return [group for group in groups if group.parameters]


@dataclass(frozen=True, eq=False)
class Tallies:
    """Sums and numbers of what the steps of a stage report, as tensors: read once, at the end."""

    sums: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take the values (n,) of a step, by name."""
        for name, each in values.items():
            # Doubles: a stage may add up millions of tokens.
            total = each.detach().double().sum()
            self.sums.setdefault(name, []).append(torch.stack([total, torch.full_like(total, len(each))]))

    def means(self) -> Metrics:
        """The mean of each over all steps; absent where there were no values."""
        every = {name: torch.stack(parts).sum(0).tolist() for name, parts in self.sums.items()}
        return {name: total / number for name, (total, number) in every.items() if number}


def reference_loss(lessons: Lessons, model: nn.Module, *, tallies: Tallies, name: str = "reference_kl") -> Loss:
    """Stage 1: KL(target || model), mean over all label tokens of a batch; tallied per token as `name`."""

    def loss(index: Ids) -> Tensor:
        values = lessons(index).divergence(model)
        tallies.add({name: values})
        return row_mean(values)

    return loss


def draft_loss(
    lessons: Lessons,
    draft: nn.Module,
    reference: nn.Module,
    *,
    config: AdaSpecConfig,
    tallies: Tallies,
    rng: np.random.Generator | None = None,
) -> Loss:
    """Stage 2: KL(target || draft) of the tokens of a batch on which the draft lags most behind the reference.

    Tallies `draft_kl` (over label tokens), `kept_share` (0..1), and delta of kept and of dropped tokens (`delta_kept`,
    `delta_dropped`). Deviation: no factor for several devices; a client has one.

    Args:
        reference: in evaluation mode and without gradients.
        rng: for `config.select` = random only.
    """

    def loss(index: Ids) -> Tensor:
        lesson = lessons(index)
        values = lesson.divergence(draft)
        with torch.no_grad():
            delta = values.detach() - lesson.divergence(reference)
        keep = select_tokens(
            delta,
            keep_share=config.keep_share,
            select=config.select,
            sequence=lesson.at[0] if config.selection_scope == "sequence" else None,
            rng=rng,
        )
        tallies.add(
            {
                "draft_kl": values,
                "kept_share": keep.float(),
                "delta_kept": delta[keep],
                "delta_dropped": delta[~keep],
            }
        )
        return selected_loss(values, keep, norm=config.loss_norm)

    return loss

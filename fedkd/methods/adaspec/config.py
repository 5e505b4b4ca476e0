"""Settings of AdaSPEC."""

from __future__ import annotations

from dataclasses import dataclass

from fedkd.checks import check_choice, check_range
from fedkd.functional.adaspec import LOSS_NORMS, SELECTIONS

SCOPES = ("batch", "sequence")
BUDGETS = ("steps", "samples")


@dataclass(frozen=True, kw_only=True)
class AdaSpecConfig:
    """Defaults are the authors' for GSM8K with three epochs. Steps win over epochs where both are given."""

    keep_share: float = 0.4  # k: share of the label tokens that the draft learns from; > 0, at most 1
    select: str = "top"  # or the controls bottom, random, all (plain distillation, DistillSpec)
    selection_scope: str = "batch"  # one quantile over the batch, or one in each sequence
    loss_norm: str = "mean_kept"  # paper: mean over kept tokens; all_tokens, the code: their sum over all label tokens
    budget_match: str = "steps"  # what the draft's stage keeps of a stage without selection: see `stages.draft_plan`
    target_epochs: float = 3.0  # passes of stage 0; 0 with no steps: the target comes trained
    target_steps: int = 0
    target_lr: float = 1e-5
    reference_epochs: float = 3.0  # passes of stage 1
    reference_steps: int = 0
    refresh_reference_every: int = 0  # train a new reference every so many rounds; 0: keep the first one
    draft_epochs: float = 3.0  # passes of stage 2 if nothing was left out
    draft_steps: int = 0
    batch_size: int = 16  # sequences per step of a stage without selection
    lr: float = 3e-4  # of reference and draft, constant
    weight_decay: float = 0.1  # of weights with two or more dimensions
    max_grad_norm: float = 1.0  # gradients are clipped to this norm; 0: never
    gamma: int = 4  # proposals per block where acceptance is measured
    max_new_tokens: int = 24  # tokens written per prompt there

    def __post_init__(self) -> None:
        check_range("keep_share", self.keep_share, above=0.0, high=1.0)
        check_choice("select", self.select, SELECTIONS)
        check_choice("selection_scope", self.selection_scope, SCOPES)
        check_choice("loss_norm", self.loss_norm, LOSS_NORMS)
        check_choice("budget_match", self.budget_match, BUDGETS)
        for name in ("target_epochs", "target_steps", "reference_epochs", "reference_steps", "draft_epochs"):
            check_range(name, getattr(self, name), low=0)
        for name in ("draft_steps", "refresh_reference_every", "weight_decay", "max_grad_norm"):
            check_range(name, getattr(self, name), low=0)
        for name in ("target_lr", "lr"):
            check_range(name, getattr(self, name), above=0.0)
        for name in ("batch_size", "gamma", "max_new_tokens"):
            check_range(name, getattr(self, name), low=1)

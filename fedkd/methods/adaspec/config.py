"""Settings of AdaSPEC."""

from __future__ import annotations

from dataclasses import dataclass

from fedkd.checks import check_choice, check_range
from fedkd.functional.adaspec import LOSS_NORMS, SELECTIONS
from fedkd.methods.local_training import ORDERS

SCOPES = ("batch", "sequence")
BUDGETS = ("steps", "samples")
VOICES = ("target", "draft")


@dataclass(frozen=True, kw_only=True)
class AdaSpecConfig:
    """Steps, batches, learning rate, decay and clipping of all stages are those of `schedule.*`.

    The authors train with AdamW, 3e-4, weight decay 0.1, batches of 16 and gradients clipped to 1.
    """

    keep_share: float = 0.4  # k: share of the label tokens that the draft learns from; > 0, at most 1
    select: str = "top"  # or the controls bottom, random, all (plain distillation, DistillSpec)
    selection_scope: str = "batch"  # one quantile over the batch, or one in each sequence
    loss_norm: str = "mean_kept"  # paper: mean over kept tokens; all_tokens, the code: their sum over all label tokens
    budget_match: str = "steps"  # what the draft's stage keeps of a stage without selection: see `draft_schedule`
    order: str = "private_then_distil"  # of private and proxy tokens within a round; or distil_then_private, joint
    target_epochs: int = 3  # passes of stage 0 over the private sequences, where no teacher.weights are given
    target_steps: int = 0  # > 0: that many mini-batches in stage 0 instead
    target_lr_scale: float = 1.0  # the target's learning rate, as a multiple of schedule.lr
    target_learns: bool = True  # a target that was trained at home distils the aggregated rows, too
    reference_rounds: int = 0  # stage 1 takes as many steps as so many rounds of stage 2; 0: as the whole run
    refresh_reference_every: int = 0  # train a new reference every so many rounds; 0: keep the first one
    speaks: str = "target"  # whose rows are shared: the client's target, or its draft
    top: int = 0  # share so many of the likeliest symbols of a row and the rest as one; 0: whole rows
    gamma: int = 4  # proposals per block where acceptance is measured
    prompt_tokens: int = 16  # length of a prompt where the response is the whole text
    max_new_tokens: int = 24  # tokens written per prompt, at most; see `judging.prompts_of`
    eval_prompts: int = 64  # test sequences whose prompts are continued, evenly spread; 0: all
    count_prompts: int = 8  # private (or held-out) prompts behind the acceptance counters of a share; 0: no counters

    def __post_init__(self) -> None:
        check_range("keep_share", self.keep_share, above=0.0, high=1.0)
        check_choice("select", self.select, SELECTIONS)
        check_choice("selection_scope", self.selection_scope, SCOPES)
        check_choice("loss_norm", self.loss_norm, LOSS_NORMS)
        check_choice("budget_match", self.budget_match, BUDGETS)
        check_choice("order", self.order, ORDERS)
        check_choice("speaks", self.speaks, VOICES)
        check_range("target_lr_scale", self.target_lr_scale, above=0.0)
        for name in ("target_epochs", "target_steps", "reference_rounds", "refresh_reference_every", "top"):
            check_range(name, getattr(self, name), low=0)
        for name in ("eval_prompts", "count_prompts"):
            check_range(name, getattr(self, name), low=0)
        for name in ("gamma", "prompt_tokens", "max_new_tokens"):
            check_range(name, getattr(self, name), low=1)

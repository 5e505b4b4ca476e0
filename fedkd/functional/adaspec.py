"""AdaSPEC: which tokens a draft model should learn, and the loss on them. Rows are label tokens, `c` the vocabulary.

Paper: Hu et al. 2025 (arXiv 2510.19779). Everything is computed in float32, whatever comes in. Target, draft and
reference must share one vocabulary.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from fedkd.functional.losses import kl_rows, masked_mean

if TYPE_CHECKING:
    import numpy as np

IGNORE = -100  # label of prompt and padding, as in torch's losses
SELECTIONS = ("top", "bottom", "random", "all")
LOSS_NORMS = ("mean_kept", "all_tokens")


def label_mask(labels: Int[Tensor, "b t"]) -> Bool[Tensor, "b t"]:
    """True where a position has a label: the token after it, as the language task lines them up."""
    return labels != IGNORE


def forward_kl_rows(draft: Float[Tensor, "n c"], target: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """KL(target || draft) per token in nats, at temperature 1; both arguments are logits.

    The target carries no gradient. A symbol to which the target gives no mass costs nothing, even where a logit is
    minus infinity.
    """
    return kl_rows(_finite(draft), _finite(target.detach()))


def top_threshold(scores: Float[Tensor, " n"], *, keep_share: float) -> Float[Tensor, ""]:
    """The (1 - keep_share) quantile of `scores`, linearly interpolated.

    Deviation: the authors call `torch.quantile`, where rounding decides whether the token at an integer rank stays: 0.6
    is a little too large in float32, so versions of torch that multiply it in float64 (2.14) keep two of six tokens at
    keep_share 0.4, while older ones, that round the rank as well, keep three. Here the rank is exact to nine digits,
    which keeps three. Nor is there a limit of 16 million scores.

    Raises:
        ValueError: no scores.
    """
    if not len(scores):
        raise ValueError("no scores, hence no quantile")
    ordered = scores.detach().float().sort().values
    rank = round((1 - keep_share) * (len(ordered) - 1), 9)
    low, high = ordered[math.floor(rank)], ordered[math.ceil(rank)]
    return torch.lerp(low, high, rank - math.floor(rank))


def select_tokens(
    delta: Float[Tensor, " n"],
    *,
    keep_share: float,
    select: str = "top",
    sequence: Int[Tensor, " n"] | None = None,
    rng: np.random.Generator | None = None,
) -> Bool[Tensor, " n"]:
    """Keep about `keep_share` of the tokens, at least one: n - ceil((1 - keep_share)(n - 1)) where scores are distinct.

    Ties at the threshold are all kept. Paper: AdaSPEC, sec. 3, is `top` over a batch. Deviation: the rest are controls
    of our own.

    Args:
        delta: divergence of the draft minus that of the reference, per token.
        keep_share: k, 0..1.
        select: `top` keeps where the draft lags most behind the reference, `bottom` where least; `random` as many
            drawn by `rng`; `all` everything, which is plain distillation (DistillSpec).
        sequence: number of each token's sequence, for a quantile within each; None: one over the whole batch.

    Raises:
        ValueError: unknown `select`, or `random` without `rng`.
    """
    if select not in SELECTIONS:
        raise ValueError(f"select is {select!r}, expected one of {', '.join(SELECTIONS)}")
    keep = torch.zeros_like(delta, dtype=torch.bool)
    if select == "all":
        return ~keep
    scores = delta.detach().float()
    if select == "bottom":
        scores = -scores
    elif select == "random":
        if rng is None:
            raise ValueError("select 'random' needs rng")
        scores = torch.from_numpy(rng.permutation(len(delta))).to(scores)
    groups = [slice(None)] if sequence is None else [sequence == number for number in sorted(set(sequence.tolist()))]
    for group in groups:
        if len(scores[group]):
            keep[group] = scores[group] >= top_threshold(scores[group], keep_share=keep_share)
    return keep


def selected_loss(
    losses: Float[Tensor, " n"], keep: Bool[Tensor, " n"], *, norm: str = "mean_kept", num_tokens: int | None = None
) -> Float[Tensor, ""]:
    """Loss of the kept tokens; 0 with a gradient path where nothing is kept.

    Paper: AdaSPEC, sec. 3, the mean over the kept tokens (`mean_kept`). The authors' code divides by the number of all
    label tokens wherever its training library counts them (`all_tokens`): about `keep_share` times the mean. Adaptive
    optimisers hide the factor; weight decay and clipping do not.

    Args:
        num_tokens: label tokens of the step, for `all_tokens` where it has several batches; None: those given.

    Raises:
        ValueError: unknown `norm`.
    """
    if norm not in LOSS_NORMS:
        raise ValueError(f"norm is {norm!r}, expected one of {', '.join(LOSS_NORMS)}")
    if norm == "mean_kept":
        return masked_mean(losses, keep)
    return (losses * keep).sum() / max(len(losses) if num_tokens is None else num_tokens, 1)


def bucket_kl_rows(draft: Float[Tensor, "n k1"], target: Float[Tensor, "n k1"]) -> Float[Tensor, " n"]:
    """KL(target || draft) per token in nats over buckets; both arguments are their log-probabilities.

    Buckets are the symbols of a support and all others together (`fedkd.functional.losses.bucket_log_probs`), or every
    symbol by itself. Never above `forward_kl_rows` of the same models, and equal to it where each bucket holds one
    symbol. Top symbols alone, renormalised, would change the divergences and with them the selection.
    """
    return functional.kl_div(_finite(draft), target.detach(), reduction="none", log_target=True).sum(-1)


def expected_acceptance(draft: Float[Tensor, "n c"], target: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """Chance that speculative sampling accepts the draft's next token: sum_v min(p, q) = 1 - TV(p, q).

    Both arguments are logits. Paper: Leviathan et al. 2023, theorem 3.5.
    """
    return torch.minimum(draft.float().softmax(-1), target.float().softmax(-1)).sum(-1)


def same_choice(draft: Float[Tensor, "n c"], target: Float[Tensor, "n c"]) -> Bool[Tensor, " n"]:
    """Whether both models find the same symbol most likely.

    Its mean over teacher-forced tokens is not the greedy acceptance rate, which leaves out what follows a rejection.
    """
    return draft.argmax(-1) == target.argmax(-1)


def _finite(x: Tensor) -> Tensor:
    """As float32 without minus infinity, which times a probability of 0 would be NaN."""
    return x.float().clamp_min(torch.finfo(torch.float32).min / 4)

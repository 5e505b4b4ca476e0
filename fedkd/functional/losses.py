"""Distillation losses on rows. Rows are any flattened positions: samples, pixels, tokens."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional


def masked_mean(values: Float[Tensor, " n"], keep: Bool[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean of the kept values; 0 with a gradient path, never NaN, where nothing is kept."""
    return (values * keep).sum() / keep.sum().clamp_min(1)


def row_mean(values: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean of all values; 0 with a gradient path where there are none."""
    return masked_mean(values, torch.ones_like(values, dtype=torch.bool))


def wide(x: Tensor) -> Tensor:
    """Half precision as float32, all else as it is: exponentials and sums overflow half precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def target_cross_entropy(
    logits: Float[Tensor, "n c *positions"], targets: Int[Tensor, " n *positions"], *, ignore: int = -100
) -> Float[Tensor, ""]:
    """Cross-entropy in nats, mean over the targets other than `ignore`; 0 with a gradient path where there are none.

    Half precision is computed, and comes back, as float32: a sum over many pixels overflows it.
    """
    total: Tensor = functional.cross_entropy(wide(logits), targets, ignore_index=ignore, reduction="sum")
    return total / (targets != ignore).sum().clamp_min(1)


def kl_rows(student: Tensor, teacher: Tensor, *, temperature: float = 1.0, dim: int = -1) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) along `dim` in nats, for every other position.

    Both arguments are logits of one shape; the gradient reaches both, also where a probability underflows to 0. Exactly
    0 where they are equal. Half precision is computed, and comes back, as float32.
    """
    log_student = functional.log_softmax(wide(student) / temperature, dim=dim)
    log_teacher = functional.log_softmax(wide(teacher) / temperature, dim=dim)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(dim) * temperature**2


def soft_target_rows(
    student: Float[Tensor, "n c"],
    target: Float[Tensor, "n c"],
    *,
    temperature: float,
    keep: Bool[Tensor, "n c"] | None = None,
) -> Float[Tensor, " n"]:
    """KL(target || student) per row in nats, times the temperature's square.

    `student` are logits, softened here; `target` are probabilities, softened already. The square keeps the gradient's
    size when the temperature changes. Paper: Hinton et al. 2015, sec. 2. Deviation: none.
    Columns that are not in `keep` are dropped: the student's softmax runs over the others, and `target` is 0 there.
    """
    log_student = _log_softmax(student / temperature, keep)
    # What crossed the wire may lie a little below 0, where the entropy would be minus infinity.
    entropy: Tensor = torch.special.entr(target.clamp_min(0.0)).sum(-1)
    return (-(target * log_student).sum(-1) - entropy) * temperature**2


def soft_cross_entropy_rows(
    student: Float[Tensor, "n c"],
    target: Float[Tensor, "n c"],
    *,
    temperature: float,
    keep: Bool[Tensor, "n c"] | None = None,
) -> Float[Tensor, " n"]:
    """-sum_k target_k log student_k per row in nats, times the temperature's square; `keep` as in `soft_target_rows`.

    The same gradient as `soft_target_rows`: the two differ by the target's entropy. Selective-FD's and DS-FL's loss.
    """
    return -(target * _log_softmax(student / temperature, keep)).sum(-1) * temperature**2


def mse_rows(
    student: Float[Tensor, "n c"], teacher: Float[Tensor, "n c"], *, keep: Bool[Tensor, "n c"] | None = None
) -> Float[Tensor, " n"]:
    """Mean squared difference of the logits of each row, over the columns in `keep`."""
    return _column_mean((student - teacher).square(), keep)


def mae_rows(
    student: Float[Tensor, "n c"], teacher: Float[Tensor, "n c"], *, keep: Bool[Tensor, "n c"] | None = None
) -> Float[Tensor, " n"]:
    """Mean absolute difference of the logits of each row, over `keep`. FedMD's digest loss (Li & Wang 2019)."""
    return _column_mean((student - teacher).abs(), keep)


def bucket_log_probs(logits: Float[Tensor, "n c"], support: Int[Tensor, "n k"]) -> Float[Tensor, "n k1"]:
    """Log-probabilities (n, k + 1): of the columns in `support`, and of all others together. The student's side of
    rows with a support (`fedkd.rows.Rows.support`): compare them with the row's values as any log-probabilities.

    Args:
        support: column numbers, int64, none twice in a row; k < c.
    """
    logs = functional.log_softmax(logits, dim=-1)
    others = logs.scatter(-1, support, torch.finfo(logs.dtype).min)  # nothing, but finite, so the gradient is
    return torch.cat([logs.gather(-1, support), others.logsumexp(-1, keepdim=True)], dim=-1)


def soft_target_loss(
    student: Float[Tensor, "n c"], teacher: Float[Tensor, "n c"], *, temperature: float
) -> Float[Tensor, ""]:
    """Mean over rows of KL(teacher || student) at `temperature`, times its square; both arguments are logits.

    Paper: Hinton et al. 2015, sec. 2. Deviation: none. Empty input gives 0 with a gradient path.
    """
    return row_mean(soft_target_rows(student, (teacher / temperature).softmax(-1), temperature=temperature))


def class_sums(
    logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"], *, num_classes: int
) -> tuple[Float[Tensor, "k c"], Float[Tensor, " k"]]:
    """Sum of the logits of each class and how many rows it had; classes without rows have 0 and 0.

    Sums, not means, so that batches can be added up. Paper: Jeong et al. 2018 (FD), the local average logit vectors.
    """
    one_hot = functional.one_hot(labels, num_classes).to(logits.dtype)
    return one_hot.T @ logits, one_hot.sum(0)


def _log_softmax(logits: Float[Tensor, "n c"], keep: Bool[Tensor, "n c"] | None) -> Float[Tensor, "n c"]:
    """Over the kept columns; 0 in the others, which thus take no part in any sum."""
    if keep is None:
        return functional.log_softmax(logits, dim=-1)
    kept = logits.masked_fill(~keep, torch.finfo(logits.dtype).min)
    return functional.log_softmax(kept, dim=-1).masked_fill(~keep, 0.0)


def _column_mean(values: Float[Tensor, "n c"], keep: Bool[Tensor, "n c"] | None) -> Float[Tensor, " n"]:
    """Mean of each row over its kept columns."""
    if keep is None:
        return values.mean(-1)
    return values.masked_fill(~keep, 0.0).sum(-1) / keep.sum(-1).clamp_min(1)

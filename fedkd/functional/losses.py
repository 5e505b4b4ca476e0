"""Distillation losses on rows. Rows are any flattened positions: samples, pixels, tokens."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional


def masked_mean(values: Float[Tensor, " n"], keep: Bool[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean of the kept values; 0 with a gradient path, never NaN, where nothing is kept."""
    return (values * keep).sum() / keep.sum().clamp_min(1)


def target_cross_entropy(
    logits: Float[Tensor, "n c *positions"], targets: Int[Tensor, n * positions], *, ignore: int = -100
) -> Float[Tensor, ""]:
    """Cross-entropy in nats, mean over the targets other than `ignore`; 0 with a gradient path where there are none."""
    total: Tensor = functional.cross_entropy(logits, targets, ignore_index=ignore, reduction="sum")
    return total / (targets != ignore).sum().clamp_min(1)


def soft_target_rows(
    student: Float[Tensor, "n c"], target: Float[Tensor, "n c"], *, temperature: float
) -> Float[Tensor, " n"]:
    """KL(target || student) per row in nats, times the temperature's square.

    `student` are logits, softened here; `target` are probabilities, softened already. The square keeps the gradient's
    size when the temperature changes. Paper: Hinton et al. 2015, sec. 2. Deviation: none.
    """
    log_student = functional.log_softmax(student / temperature, dim=-1)
    # What crossed the wire may lie a little below 0, where the entropy would be minus infinity.
    entropy: Tensor = torch.special.entr(target.clamp_min(0.0)).sum(-1)
    return (-(target * log_student).sum(-1) - entropy) * temperature**2


def soft_cross_entropy_rows(
    student: Float[Tensor, "n c"], target: Float[Tensor, "n c"], *, temperature: float
) -> Float[Tensor, " n"]:
    """-sum_k target_k log student_k per row in nats, times the temperature's square.

    The same gradient as `soft_target_rows`: the two differ by the target's entropy. Selective-FD's and DS-FL's loss.
    """
    return -(target * functional.log_softmax(student / temperature, dim=-1)).sum(-1) * temperature**2


def mse_rows(student: Float[Tensor, "n c"], teacher: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """Mean squared difference of the logits of each row."""
    return (student - teacher).square().mean(-1)


def mae_rows(student: Float[Tensor, "n c"], teacher: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """Mean absolute difference of the logits of each row. FedMD's digest loss (Li & Wang 2019)."""
    return (student - teacher).abs().mean(-1)


def soft_target_loss(
    student: Float[Tensor, "n c"], teacher: Float[Tensor, "n c"], *, temperature: float
) -> Float[Tensor, ""]:
    """Mean over rows of KL(teacher || student) at `temperature`, times its square; both arguments are logits.

    Paper: Hinton et al. 2015, sec. 2. Deviation: none. Empty input gives 0 with a gradient path.
    """
    rows = soft_target_rows(student, (teacher / temperature).softmax(-1), temperature=temperature)
    return masked_mean(rows, torch.ones_like(rows, dtype=torch.bool))


def class_sums(
    logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"], *, num_classes: int
) -> tuple[Float[Tensor, "k c"], Float[Tensor, " k"]]:
    """Sum of the logits of each class and how many rows it had; classes without rows have 0 and 0.

    Sums, not means, so that batches can be added up. Paper: Jeong et al. 2018 (FD), the local average logit vectors.
    """
    one_hot = functional.one_hot(labels, num_classes).to(logits.dtype)
    return one_hot.T @ logits, one_hot.sum(0)

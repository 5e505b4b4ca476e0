"""Distillation losses on rows. Rows are any flattened positions: samples, pixels, tokens."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional


def masked_mean(values: Float[Tensor, " n"], keep: Bool[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean of the kept values; 0 with a gradient path, never NaN, where nothing is kept."""
    return (values * keep).sum() / keep.sum().clamp_min(1)


def soft_target_rows(
    student: Float[Tensor, "n c"], target: Float[Tensor, "n c"], *, temperature: float
) -> Float[Tensor, " n"]:
    """KL(target || student) per row in nats, times the temperature's square.

    `student` are logits, softened here; `target` are probabilities, softened already. The square keeps the gradient's
    size when the temperature changes. Paper: Hinton et al. 2015, sec. 2. Deviation: none.
    """
    log_student = functional.log_softmax(student / temperature, dim=-1)
    entropy = torch.special.entr(target).sum(-1)
    return (-(target * log_student).sum(-1) - entropy) * temperature**2


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

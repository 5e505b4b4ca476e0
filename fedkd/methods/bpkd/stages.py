"""The losses of a step: a student against labels and a teacher, and against the consensus of the federation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as nnf

from fedkd.functional.bpkd import (
    IGNORED,
    body_loss,
    channel_wise_loss,
    edge_band,
    edge_loss,
    edge_mask,
    pixel_loss,
)
from fedkd.methods.bpkd.config import BPKDConfig
from fedkd.tasks.base import VALUES_AT_ONCE
from fedkd.tasks.segmentation import resized

Terms: TypeAlias = dict[str, Tensor]  # weighted parts of a loss, by name; their sum is the loss


def predicted_labels(
    logits: Float[Tensor, "n c h w"], size: tuple[int, int], *, present: Bool[Tensor, "n h w"] | None = None
) -> Int[Tensor, "n rows cols"]:
    """Arg max of the logits at `size`: stands in for labels where images have none. Absent pixels are ignored ones."""
    labels = resized(logits, size).max(1).indices  # many times faster than argmax, which strides over the maps
    if present is None:
        return labels
    here = nnf.interpolate(present.unsqueeze(1).float(), size=size, mode="nearest")[:, 0] > 0
    return torch.where(here, labels, IGNORED)


def predicted_band(
    logits: Float[Tensor, "n c h w"],
    size: tuple[int, int],
    *,
    width: int,
    present: Bool[Tensor, "n h w"] | None = None,
) -> Bool[Tensor, "n h w"]:
    """The edge band of the arg max, on the grid of the logits, while the width counts pixels at `size`.

    Found for a few images at a time: all of a proxy set at full size, class by class, may not fit.
    """
    step = max(1, VALUES_AT_ONCE // (logits.shape[1] * size[0] * size[1]))
    grid, bands = (logits.shape[2], logits.shape[3]), [logits.new_zeros(0, *logits.shape[2:], dtype=torch.bool)]
    for start in range(0, len(logits), step):
        part = slice(start, start + step)
        labels = predicted_labels(logits[part], size, present=None if present is None else present[part])
        bands.append(edge_band(labels, size=grid, width=width))
    return torch.cat(bands)


def edges_of(
    config: BPKDConfig, labels: Int[Tensor, "n rows cols"], logits: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n c h w"]:
    """M_E of these labels at the size of the logits; in the control `shuffled` that of the next image of the batch."""
    size = (logits.shape[2], logits.shape[3])
    edges = edge_mask(labels, num_classes=logits.shape[1], size=size, width=config.edge_width)
    return edges.roll(1, 0) if config.trimap == "shuffled" else edges


def distil_terms(
    config: BPKDConfig,
    student: Float[Tensor, "n c h w"],
    teacher: Float[Tensor, "n c H W"],
    labels: Callable[[], Int[Tensor, "n rows cols"]],
    *,
    present: Bool[Tensor, "n h w"] | None = None,
) -> Terms:
    """The weighted distillation terms of the configured loss: `edge` and `body`, or `kl`, or `cwd`, or none.

    `labels` make the trimap, and are asked for where one is needed. The teacher's logits are resized to the student's,
    and carry no gradient. Where nobody speaks (`present` false) both logits are masked to 0 and no edge is counted: a
    missing pixel is masked as the paper masks, not invented.

    Raises:
        ValueError: student and teacher differ in images or classes.
    """
    if student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            f"the student's logits have shape {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}; expected "
            "the same images and classes: give both models the head of the same task"
        )
    teacher = resized(teacher.detach(), (student.shape[2], student.shape[3]))
    tau = config.temperature
    if present is not None:
        student, teacher = student * present.unsqueeze(1), teacher * present.unsqueeze(1)
    if config.loss == "kl":
        return {"kl": config.kd_weight * pixel_loss(student, teacher, temperature=tau, keep=present)}
    if config.loss == "cwd":
        return {"cwd": config.kd_weight * channel_wise_loss(student, teacher, temperature=tau)}
    if config.loss == "ce":
        return {}
    edges = edges_of(config, labels(), student)
    if present is not None:
        edges = edges * present.unsqueeze(1)
    edge = edge_loss(student, teacher, edges, temperature=tau, alpha=config.alpha, norm=config.edge_norm)
    body = body_loss(student, teacher, edges, temperature=tau)
    return {"edge": config.lambda_edge * edge, "body": config.lambda_body * body}


def consensus_terms(
    config: BPKDConfig,
    student: Float[Tensor, "n c h w"],
    consensus: Float[Tensor, "n c h w"],
    size: tuple[int, int],
    *,
    present: Bool[Tensor, "n h w"] | None = None,
) -> Terms:
    """The distillation terms on images without labels: the consensus is the teacher and its arg max makes the trimap.

    `size` is that of the images, for the edge width counts their pixels; `present` is on the consensus' grid.
    Deviation: a student of another stride is resized to that grid, not the teacher to the student's, so that absent
    pixels do not bleed into present ones. With `loss` ce there is nothing to learn.
    """
    student = resized(student, (consensus.shape[2], consensus.shape[3]))
    labels = functools.partial(predicted_labels, consensus, size, present=present)
    return distil_terms(config, student, consensus, labels, present=present)

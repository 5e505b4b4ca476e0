"""The steps of BPKD on modules and tensors: teacher on labels, student on labels and teacher, student on consensus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn, optim
from torch.nn import functional

from fedkd.functional.bpkd import body_loss, channel_wise_loss, edge_loss, edge_mask, pixel_loss
from fedkd.functional.losses import masked_mean
from fedkd.methods.bpkd.config import BPKDConfig
from fedkd.types import Metrics

Terms: TypeAlias = dict[str, Tensor]  # weighted parts of a loss, by name; their sum is the loss
Labelled: TypeAlias = tuple[Float[Tensor, "n d rows cols"], Int[Tensor, "n rows cols"]]


def segmentation_logits(output: Any) -> Float[Tensor, "n c h w"]:
    """The logits in whatever a segmentation model returns: a tensor, torchvision's `out`, transformers' `logits`.

    Auxiliary heads (torchvision's `aux`) are left out.

    Raises:
        TypeError: none of these.
        ValueError: the tensor is not (n, c, h, w).
    """
    found = output
    if isinstance(output, Mapping):
        found = output.get("out", output.get("logits"))
    elif not isinstance(output, Tensor):
        found = getattr(output, "logits", None)
    if not isinstance(found, Tensor):
        raise TypeError(
            f"the model returned {type(output).__name__}, expected a tensor, a mapping with 'out' or 'logits', or an "
            "object with .logits; wrap the model so that it returns its segmentation logits"
        )
    if found.ndim != 4:
        raise ValueError(f"segmentation logits have shape {tuple(found.shape)}, expected (images, classes, rows, cols)")
    return found


def resize(logits: Float[Tensor, "n c h w"], size: tuple[int, int]) -> Float[Tensor, "n c rows cols"]:
    """The logits at `size`, bilinear with pixel centres kept (align_corners false); as they are where it fits."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def label_loss(
    logits: Float[Tensor, "n c h w"], labels: Int[Tensor, "n rows cols"], *, ignore_index: int
) -> Float[Tensor, ""]:
    """Cross-entropy of the logits at the labels' size, mean over labelled pixels; 0 where no pixel has a label."""
    wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    at_labels = resize(wide, (labels.shape[-2], labels.shape[-1]))
    pixels = functional.cross_entropy(at_labels, labels.long(), reduction="none", ignore_index=ignore_index)
    return masked_mean(pixels.flatten(), labels.flatten() != ignore_index)


def predicted_labels(
    logits: Float[Tensor, "n c h w"],
    size: tuple[int, int],
    *,
    present: Bool[Tensor, "n h w"] | None = None,
    ignore_index: int,
) -> Int[Tensor, "n rows cols"]:
    """Arg max of the logits at `size`: stands in for labels where images have none. Absent pixels are ignored ones."""
    labels = resize(logits, size).argmax(1)
    if present is None:
        return labels
    here = functional.interpolate(present.unsqueeze(1).float(), size=size, mode="nearest")[:, 0] > 0
    return torch.where(here, labels, ignore_index)


def edges_of(
    config: BPKDConfig, labels: Int[Tensor, "n rows cols"], logits: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n c h w"]:
    """M_E of these labels at the size of the logits."""
    return edge_mask(
        labels,
        num_classes=logits.shape[1],
        size=(logits.shape[2], logits.shape[3]),
        width=config.edge_width,
        ignore_index=config.ignore_index,
    )


def distil_terms(
    config: BPKDConfig,
    student: Float[Tensor, "n c h w"],
    teacher: Float[Tensor, "n c H W"],
    edges: Float[Tensor, "n c h w"],
    *,
    present: Bool[Tensor, "n h w"] | None = None,
) -> Terms:
    """The weighted distillation terms of the configured loss: `edge` and `body`, or `kl`, or `cwd`, or none.

    The teacher's logits are resized to the student's, and carry no gradient. Where nobody speaks (`present` false) both
    logits are masked to 0 and no edge is counted: a missing pixel is masked as the paper masks, not invented.

    Raises:
        ValueError: student and teacher differ in images or classes.
    """
    if student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            f"the student's logits have shape {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}; expected "
            "the same images and classes: give both models the head of the same task"
        )
    teacher = resize(teacher.detach(), (student.shape[2], student.shape[3]))
    if present is not None:
        here = present.unsqueeze(1)
        student, teacher, edges = student * here, teacher * here, edges * here
    tau = config.temperature
    if config.loss == "kl":
        return {"kl": config.kd_weight * pixel_loss(student, teacher, temperature=tau, keep=present)}
    if config.loss == "cwd":
        return {"cwd": config.kd_weight * channel_wise_loss(student, teacher, temperature=tau)}
    if config.loss == "ce":
        return {}
    edge = edge_loss(student, teacher, edges, temperature=tau, alpha=config.alpha, norm=config.edge_norm)
    body = body_loss(student, teacher, edges, temperature=tau)
    return {"edge": config.lambda_edge * edge, "body": config.lambda_body * body}


def private_terms(
    config: BPKDConfig,
    student: Float[Tensor, "n c h w"],
    teacher: Float[Tensor, "n c H W"] | None,
    labels: Int[Tensor, "n rows cols"],
) -> Terms:
    """`ce` and the distillation terms, the trimap from the labels; `ce` alone where there is no teacher."""
    terms = {"ce": label_loss(student, labels, ignore_index=config.ignore_index)}
    if teacher is None:
        return terms
    return terms | distil_terms(config, student, teacher, edges_of(config, labels, student))


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
    labels = predicted_labels(consensus, size, present=present, ignore_index=config.ignore_index)
    student = resize(student, (consensus.shape[2], consensus.shape[3]))
    return distil_terms(config, student, consensus, edges_of(config, labels, consensus), present=present)


def train_teacher(
    model: nn.Module, optimizer: optim.Optimizer, batches: Iterable[Labelled], *, ignore_index: int
) -> Metrics:
    """Train on labelled images with cross-entropy, one step per batch; its mean. Leaves the model frozen."""
    model.train().requires_grad_(True)
    losses = []
    for images, labels in batches:
        logits = segmentation_logits(model(images))
        losses.append(_step(optimizer, {"ce": label_loss(logits, labels, ignore_index=ignore_index)}))
    model.eval().requires_grad_(False)
    return _means(losses)


def train_student(
    config: BPKDConfig,
    student: nn.Module,
    teacher: nn.Module | None,
    optimizer: optim.Optimizer,
    batches: Iterable[Labelled],
) -> Metrics:
    """Train on labelled images, one step per batch; the mean of each weighted term, and of their sum as `loss`."""
    student.train()
    return _means(student_step(config, student, teacher, optimizer, *batch) for batch in batches)


def student_step(
    config: BPKDConfig,
    student: nn.Module,
    teacher: nn.Module | None,
    optimizer: optim.Optimizer,
    images: Float[Tensor, "n d rows cols"],
    labels: Int[Tensor, "n rows cols"],
) -> Terms:
    """One step on labelled images: CE + lambda_B L_B + lambda_E L_E, or the control's loss. Its weighted terms.

    The teacher is asked in evaluation mode without gradients, and not at all where the loss is `ce`.
    """
    taught = None
    if teacher is not None and config.loss != "ce":
        teacher.eval()
        with torch.no_grad():
            taught = segmentation_logits(teacher(images))
    return _step(optimizer, private_terms(config, segmentation_logits(student(images)), taught, labels))


def consensus_step(
    config: BPKDConfig,
    student: nn.Module,
    optimizer: optim.Optimizer,
    images: Float[Tensor, "n d rows cols"],
    consensus: Float[Tensor, "n c h w"],
    *,
    present: Bool[Tensor, "n h w"] | None = None,
) -> Terms:
    """One step towards the consensus on proxy images. Its weighted terms; none, and no step, where `loss` is ce."""
    if config.loss == "ce":
        return {}
    logits = segmentation_logits(student(images))
    size = (images.shape[-2], images.shape[-1])
    return _step(optimizer, consensus_terms(config, logits, consensus, size, present=present))


def _step(optimizer: optim.Optimizer, terms: Terms) -> Terms:
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(torch.stack(list(terms.values())).sum())
    optimizer.step()
    return {name: term.detach() for name, term in terms.items()}


def _means(steps: Iterable[Terms]) -> Metrics:
    """One transfer after the last step: reading each loss as it comes would wait for the device at every step."""
    each = list(steps)
    if not each:
        return {}
    metrics = {name: float(torch.stack([terms[name] for terms in each]).mean()) for name in each[0]}
    return metrics | {"loss": sum(metrics.values())}

"""The contrastive teacher: an encoder with a projection head, its training without labels, and what it sees."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn, optim

from fedkd.functional.wad import nt_xent, unit_rows
from fedkd.methods.local_training import mean_losses, step
from fedkd.methods.wad.config import WADConfig
from fedkd.methods.wad.views import View, view_generator
from fedkd.models.heads import cut_head
from fedkd.models.optimizers import make_optimizer
from fedkd.tasks.calls import ask
from fedkd.types import Metrics


class ContrastiveEncoder(nn.Module):
    """A classifier without its last linear layer, and the projection head linear-ReLU-linear of SimCLR in its place."""

    def __init__(self, classifier: nn.Module, *, projection: int) -> None:
        """`classifier` is changed: its last linear layer, and so its classes, are gone.

        Raises:
            ConfigError: the classifier has no linear layer to take away.
        """
        super().__init__()
        _, width = cut_head(classifier, key="teacher.name")
        self.backbone = classifier
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, projection))

    def features(self, images: Tensor) -> Tensor:
        """What the classifier's last layer would have seen (n, width)."""
        return ask(self.backbone, images)

    def forward(self, images: Tensor) -> Tensor:
        """Projections v (n, projection), not yet of unit length."""
        projections: Tensor = self.head(self.features(images))
        return projections


def teacher_optimizer(encoder: nn.Module, config: WADConfig) -> optim.Optimizer:
    """The configured optimiser over all parameters of the encoder."""
    return make_optimizer(
        config.teacher_optimizer,
        encoder.parameters(),
        lr=config.teacher_lr,
        momentum=config.teacher_momentum,
        weight_decay=config.teacher_weight_decay,
    )


def teacher_lr(config: WADConfig, epoch: float) -> float:
    """The learning rate `epoch` (with fractions) passes into the training.

    Linear from teacher_lr to teacher_warmup_factor times it over the warm-up (from 0 where the factor is 1), then half
    a cosine over teacher_epochs passes, or constant. As in the authors' code, the cosine begins after the
    warm-up yet spans all epochs, so it is cut off before it reaches 0. Deviation: theirs keeps the last rate of the
    warm-up for one step more.
    """
    base, factor, warmup = config.teacher_lr, config.teacher_warmup_factor, config.teacher_warmup_epochs
    if epoch <= warmup and warmup:
        start = 1.0 if factor > 1 else 0.0
        return base * (start + (factor - start) * epoch / warmup)
    if config.teacher_schedule == "constant":
        return base * factor
    return base * factor * (1 + math.cos(math.pi * (epoch - warmup) / config.teacher_epochs)) / 2


def train_teacher(
    encoder: nn.Module,
    images: Float[Tensor, "n ..."],
    optimizer: optim.Optimizer,
    config: WADConfig,
    *,
    view: View,
    rng: np.random.Generator,
) -> Metrics:
    """Train by NT-Xent on two views of each image, without labels; the mean loss of the last epoch.

    `images` are the labelled and the unlabelled ones together. A last batch that is not full is dropped.
    Deviation: fewer images than a batch make one batch of all; the authors' loader would then give none.
    """
    batch = min(config.teacher_batch, len(images))
    if batch < 2:
        return {}
    per_epoch = len(images) // batch
    losses: list[Tensor] = []
    encoder.train()
    for epoch in range(config.teacher_epochs):
        losses.clear()
        draws = view_generator(rng)
        order = torch.from_numpy(rng.permutation(len(images))).to(images.device)
        for number in range(per_epoch):
            # The authors set the rate after a step, from that step's own time: each step runs on the one before.
            lr = teacher_lr(config, max(0, epoch * per_epoch + number - 1) / per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = lr
            chosen = images[order[number * batch : (number + 1) * batch]]
            pairs = view(torch.cat([chosen, chosen]), draws)
            loss = nt_xent(unit_rows(encoder(pairs)), temperature=config.temperature)
            step(optimizer, loss)
            losses.append(loss.detach())
    return mean_losses({"contrastive_loss": losses})


@torch.no_grad()
def embed(
    encoder: nn.Module,
    images: Float[Tensor, "n ..."],
    *,
    view: View,
    views: int,
    rng: np.random.Generator,
    batch_size: int,
) -> Float[Tensor, "n d"]:
    """Mean over `views` random views of the unit projections of each image; of the clean images where `views` is 0.

    The encoder is put into evaluation mode and stays there.
    """
    encoder.eval()
    draws = view_generator(rng)
    parts = []
    for start in range(0, max(1, len(images)), batch_size):
        chunk = images[start : start + batch_size]
        seen = [chunk] if not views else [view(chunk, draws) for _ in range(views)]
        parts.append(torch.stack([unit_rows(encoder(each)) for each in seen]).mean(0))
    return torch.cat(parts)

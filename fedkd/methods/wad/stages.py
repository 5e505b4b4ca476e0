"""One iteration of WAD: knowledge (B), student (C), promotion (D). Items are named by ids: positions in all images.

Every list may come in an order of its own; rows are always brought together by id.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn, optim

from fedkd.functional.wad import (
    class_scores,
    cross_entropy_rows,
    margin_weights,
    positions,
    promoted,
    pseudo_labels,
    student_loss,
    weighted_divergence,
)
from fedkd.methods.local_training import batches
from fedkd.methods.wad.views import View, view_generator
from fedkd.types import Ids, Metrics

_SCORED_ROWS = 1024  # pool items compared with all labelled ones at a time


@dataclass(frozen=True, eq=False)
class Labelled:
    """The labelled set L: ids (l,) and labels (l,): the ground truth, or the pseudo label of a promoted item."""

    ids: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Guidance:
    """What the teacher says of the pool: ids, pseudo labels yhat and weights w, all (n,), and class scores s (n, c)."""

    ids: Tensor
    labels: Tensor
    weights: Tensor
    scores: Tensor

    def at(self, ids: Int[Tensor, " m"]) -> Guidance:
        """The same for `ids`, in their order; ValueError where one of them is unknown."""
        found = positions(ids, among=self.ids)
        return Guidance(self.ids[found], self.labels[found], self.weights[found], self.scores[found])


@dataclass(frozen=True, eq=False)
class Peers:
    """What the other clients say: ids (p,) of proxy items and the aggregated logits z_bar (p, c)."""

    ids: Tensor
    logits: Tensor


@dataclass(frozen=True, eq=False)
class Promotion:
    """The sets after a promotion, and who moved: ids (k,) and the pseudo labels (k,) under which they did."""

    labelled: Labelled
    pool_ids: Tensor
    moved_ids: Tensor
    moved_labels: Tensor


def knowledge(
    pool_projections: Float[Tensor, "n d"],
    pool_ids: Int[Tensor, " n"],
    labelled_projections: Float[Tensor, "l d"],
    labels: Int[Tensor, " l"],
    *,
    num_classes: int,
) -> Guidance:
    """B: pseudo labels and weights of the pool from the current labelled set, promoted items included.

    Raises:
        ValueError: nothing is labelled.
    """
    scores = torch.cat(
        [
            class_scores(rows, labelled_projections, labels, num_classes=num_classes)
            for rows in _chunks(pool_projections, _SCORED_ROWS)
        ]
    )
    return Guidance(pool_ids, pseudo_labels(scores), margin_weights(scores), scores)


def train_student(
    student: nn.Module,
    optimizer: optim.Optimizer,
    images: Float[Tensor, "m ..."],
    labelled: Labelled,
    guidance: Guidance,
    *,
    steps: int,
    labelled_batch: int,
    unlabelled_batch: int,
    rng: np.random.Generator,
    view: View | None = None,
    peers: Peers | None = None,
    kd_weight: float = 1.0,
) -> Metrics:
    """C: `steps` steps on CE(f(x_l), y_l) + mean_u[w(u) CE(f(u), yhat(u))]; the mean loss.

    Each step takes one labelled and one unlabelled batch (of the items that `guidance` speaks of), passed through the
    student one after the other, since batch norm sees each by itself. An empty pool leaves the labelled part alone.
    `peers` adds kd_weight * mean_u[w(u) KL(softmax(z_bar(u)) || softmax(f(u)))], 0 for items they are silent on; not
    part of the paper. `view` is what the student sees of each batch; None: the images as they are.

    Raises:
        ValueError: nothing is labelled.
    """
    if not len(labelled):
        raise ValueError("the labelled set is empty; WAD needs at least one labelled item")
    labelled_rng, pool_rng, view_rng = rng.spawn(3)
    draws = view_generator(view_rng)

    def logits(ids: Tensor) -> Tensor:
        seen = images[ids] if view is None else view(images[ids], draws)
        answer: Tensor = student(seen)
        return answer

    said = None if peers is None else _said(peers, guidance.ids)
    losses = []
    student.train()
    pool_batches = batches(pool_rng, len(guidance.ids), unlabelled_batch, steps)
    for index in batches(labelled_rng, len(labelled), labelled_batch, steps):
        own = torch.from_numpy(index).to(labelled.ids.device)
        own_logits = logits(labelled.ids[own])
        pool = torch.from_numpy(next(pool_batches, _NONE)).to(guidance.ids.device)
        pool_logits = logits(guidance.ids[pool]) if len(pool) else own_logits[:0]
        weights = guidance.weights[pool]
        loss = student_loss(own_logits, labelled.labels[own], pool_logits, guidance.labels[pool], weights)
        if said is not None:
            heard = weights * said.heard[pool]
            loss = loss + kd_weight * weighted_divergence(pool_logits, said.logits[pool], heard)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.detach())
    return {"student_loss": float(torch.stack(losses).mean())} if losses else {}


@torch.no_grad()
def predict(student: nn.Module, images: Float[Tensor, "n ..."], *, batch_size: int) -> Float[Tensor, "n c"]:
    """The student's logits on the images as they are. It is put into evaluation mode and stays there."""
    student.eval()
    return torch.cat([student(chunk) for chunk in _chunks(images, batch_size)])


def promote(
    labelled: Labelled,
    guidance: Guidance,
    logit_ids: Int[Tensor, " n"],
    logits: Float[Tensor, "n c"],
    *,
    share: float,
) -> Promotion:
    """D: the floor(share n) pool items whose pseudo label the student finds likeliest join the labelled set under it.

    The pool is what `logit_ids` name: the current one, so n shrinks from iteration to iteration. `guidance` must speak
    of all of it, in any order. Nothing moves at share 0.
    """
    said = guidance.at(logit_ids)
    moved = promoted(cross_entropy_rows(logits, said.labels), logit_ids, share=share)
    labels = guidance.at(moved).labels
    grown = Labelled(torch.cat([labelled.ids, moved]), torch.cat([labelled.labels, labels]))
    return Promotion(grown, logit_ids[~torch.isin(logit_ids, moved)], moved, labels)


@dataclass(frozen=True, eq=False)
class _Said:
    """The peers' logits in the pool's order, and whether there are any: (n, c) and (n,), 0 or 1."""

    logits: Tensor
    heard: Tensor


_NONE: Ids = np.zeros(0, np.int64)


def _said(peers: Peers, pool_ids: Tensor) -> _Said:
    heard = torch.isin(pool_ids, peers.ids)
    logits = peers.logits.new_zeros(len(pool_ids), peers.logits.shape[1])
    logits[heard] = peers.logits[positions(pool_ids[heard], among=peers.ids)]
    return _Said(logits, heard.to(logits.dtype))


def _chunks(x: Tensor, size: int) -> Iterator[Tensor]:
    """The rows of x, `size` at a time; one empty chunk where there are none."""
    for start in range(0, max(1, len(x)), size):
        yield x[start : start + size]

"""One iteration of WAD: knowledge (B), student (C), promotion (D). Items are named by ids: positions in all images.

Every list may come in an order of its own; rows are always brought together by id.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

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
from fedkd.tasks.calls import ask
from fedkd.types import Ids

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
    """What the other clients say of proxy items: ids (p,), probabilities (p, c), and which columns count (p, c)."""

    ids: Tensor
    probs: Tensor
    heard: Tensor

    def at(self, index: Int[Tensor, " n"]) -> Peers:
        """What they say at these positions."""
        return Peers(self.ids[index], self.probs[index], self.heard[index])


@dataclass(frozen=True, eq=False)
class Promotion:
    """The sets after a promotion, and who moved: ids (k,) and the pseudo labels (k,) under which they did."""

    labelled: Labelled
    pool_ids: Tensor
    moved_ids: Tensor
    moved_labels: Tensor


def knowledge_of(
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


def student_losses(
    student: nn.Module,
    images: Float[Tensor, "m ..."],
    labelled: Labelled,
    guidance: Guidance,
    *,
    labelled_batch: int,
    unlabelled_batch: int,
    rng: np.random.Generator,
    view: View | None = None,
    peers: Peers | None = None,
    unlabelled_weight: float = 1.0,
    kd_weight: float = 1.0,
) -> Iterator[Tensor]:
    """C: the losses of one step after another, without end: CE(f(x_l), y_l) + mean_u[w(u) CE(f(u), yhat(u))].

    Each has one labelled and one unlabelled batch (of the items that `guidance` speaks of), passed through the student
    one after the other, since batch norm sees each by itself. An empty pool leaves the labelled part alone. `peers`
    adds kd_weight * mean_u[w(u) KL(softmax(z_bar(u)) || softmax(f(u)))], 0 for items they are silent on; not part of
    the paper, nor is `unlabelled_weight`, the factor of the second term. `view` is what the student sees of each batch;
    None: the images as they are.

    Deviation: `peers` are heard on items of the pool alone. A proxy item that was promoted is out of it for good and
    keeps its hard label, whatever the others say later; `peer_loss`, in the closing message, takes it in again.

    Raises:
        ValueError: nothing is labelled.
    """
    if not len(labelled):
        raise ValueError("the labelled set is empty; WAD needs at least one labelled item")
    labelled_rng, pool_rng, view_rng = rng.spawn(3)
    draws = view_generator(view_rng)

    def logits(ids: Tensor) -> Tensor:
        return ask(student, images[ids] if view is None else view(images[ids], draws))

    said = None if peers is None else _said(peers, guidance.ids)
    pool_batches = batches(pool_rng, len(guidance.ids), unlabelled_batch, sys.maxsize)
    for index in batches(labelled_rng, len(labelled), labelled_batch, sys.maxsize):
        own = torch.from_numpy(index).to(labelled.ids.device)
        own_logits = logits(labelled.ids[own])
        pool = torch.from_numpy(next(pool_batches, _NONE)).to(guidance.ids.device)
        pool_logits = logits(guidance.ids[pool]) if len(pool) else own_logits[:0]
        weights = guidance.weights[pool]
        loss = student_loss(
            own_logits, labelled.labels[own], pool_logits, guidance.labels[pool], unlabelled_weight * weights
        )
        if said is not None:
            spoken, probs, heard = (table[pool] for table in said)
            loss = loss + kd_weight * weighted_divergence(pool_logits, probs, weights * spoken, keep=heard)
        yield loss


def peer_loss(student: nn.Module, images: Float[Tensor, "p ..."], peers: Peers, weights: Float[Tensor, " p"]) -> Tensor:
    """The peers' term alone: mean over the images that they speak of, with the client's own weights."""
    return weighted_divergence(ask(student, images), peers.probs, weights, keep=peers.heard)


@torch.no_grad()
def predict(
    student: nn.Module, images: Float[Tensor, "m ..."], ids: Int[Tensor, " n"], *, batch_size: int
) -> Float[Tensor, "n c"]:
    """The student's logits on the images of `ids`, as they are. It is put into evaluation mode and stays there."""
    student.eval()
    return torch.cat([ask(student, images[chunk]) for chunk in _chunks(ids, batch_size)])  # no copy of the whole pool


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


_NONE: Ids = np.zeros(0, np.int64)


def _said(peers: Peers, pool_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In the pool's order: whether the peers speak of an item (n,), 0 or 1, their probabilities and columns (n, c)."""
    spoken = torch.isin(pool_ids, peers.ids)
    at = positions(pool_ids[spoken], among=peers.ids)
    probs = peers.probs.new_zeros(len(pool_ids), peers.probs.shape[1])
    heard = torch.ones_like(probs, dtype=torch.bool)
    probs[spoken], heard[spoken] = peers.probs[at], peers.heard[at]
    return spoken.to(probs.dtype), probs, heard


def _chunks(x: Tensor, size: int) -> Iterator[Tensor]:
    """The rows of x, `size` at a time; one empty chunk where there are none."""
    for start in range(0, max(1, len(x)), size):
        yield x[start : start + size]

"""WAD's maths: contrastive loss, class scores, weights and pseudo labels, weighted losses, and who is promoted.

Paper: Du et al. 2023 (Weight-Aware Distillation, ICCV). Letters: `l` labelled items; `d` width of the projections. All
scores are cosines, so half precision is computed, and comes back, as float32.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from fedkd.functional.losses import row_mean, soft_target_rows, wide

EPS = 1e-8  # of the norms, the denominator and the logarithm, as in the authors' code
UNRELATED = 0.0  # the cosine of items that have nothing in common


def unit_rows(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Each row over its length plus 1e-8, so that a row of zeros stays zeros."""
    x = wide(x)
    lengths: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / (lengths + EPS)


def nt_xent(rows: Float[Tensor, "2*n d"], *, temperature: float = 0.5, eps: float = EPS) -> Float[Tensor, ""]:
    """Mean over the 2n views of -log(exp(v_i.v_i+ / tau) / (sum_{j != i} exp(v_i.v_j / tau) + eps) + eps) in nats.

    `rows` are unit rows: the first view of all n images, then the second view of all in the same order. Both eps bound
    the loss of a view at -log(eps). Empty input gives 0 with a gradient path.

    Paper: Chen et al. 2020 (SimCLR), eq. 1, with the eps of WAD's code. Deviation: none in value; each row is shifted
    by its largest exponent first, so that a small temperature does not overflow.

    Raises:
        ValueError: an odd number of rows.
    """
    size, odd = divmod(len(rows), 2)
    if odd:
        raise ValueError(f"{len(rows)} rows, expected two views of each image: an even number")
    if not size:
        return rows.sum()
    rows = wide(rows)
    itself = torch.eye(2 * size, dtype=torch.bool, device=rows.device)
    exponents = (rows @ rows.T / temperature).masked_fill(itself, -math.inf)
    largest = exponents.detach().amax(1, keepdim=True)
    shifted = (exponents - largest).exp()
    share = shifted / (shifted.sum(1, keepdim=True) + eps * (-largest).exp())
    partner = torch.arange(2 * size, device=rows.device).roll(size)
    return row_mean(-(share.gather(1, partner[:, None]).squeeze(1) + eps).log())


def class_scores(
    unlabelled: Float[Tensor, "n d"], labelled: Float[Tensor, "l d"], labels: Int[Tensor, " l"], *, num_classes: int
) -> Float[Tensor, "n c"]:
    """s_k(x): cosine of each unlabelled projection to the nearest labelled one of class k; -inf for a class without.

    The maximum over instances, not the cosine to a class mean. Any length of rows will do: they are normalised here.
    """
    cosines = unit_rows(unlabelled) @ unit_rows(labelled).T
    scores = cosines.new_full((len(unlabelled), num_classes), -math.inf)
    return scores.scatter_reduce(1, labels.expand(len(unlabelled), -1), cosines, "amax")


def pseudo_labels(scores: Float[Tensor, "n c"]) -> Int[Tensor, " n"]:
    """yhat: the class of the highest score, the first of equals.

    Raises:
        ValueError: a row without any class that has labelled items.
    """
    if scores.isneginf().all(1).any():
        raise ValueError("no class has a labelled item; WAD needs at least one labelled item to compare with")
    return scores.argmax(1)


def margin_weights(scores: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """w: the highest score less the second highest, >= 0 and, for cosines, at most 2; detached.

    The authors' s_(1) (1 - s_(2) / s_(1)) with s_(1) multiplied out, which needs no division. Classes at -inf (without
    labelled items) do not count. Deviation: where only one class has items, which the authors' code cannot take, the
    runner-up is the cosine 0 of unrelated items and w = max(s_(1), 0).

    Raises:
        ValueError: a row without any class that has labelled items.
    """
    scores = wide(scores.detach())
    if not len(scores):
        return scores.new_zeros(0)
    if scores.isneginf().all(1).any():
        raise ValueError("no class has a labelled item; WAD needs at least one labelled item to compare with")
    if scores.shape[1] == 1:
        return (scores[:, 0] - UNRELATED).clamp_min(0.0)
    best, second = scores.topk(2, dim=1).values.unbind(1)
    return torch.where(second.isneginf(), (best - UNRELATED).clamp_min(0.0), best - second)


def cross_entropy_rows(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """CE(f(x), y) per row in nats."""
    return functional.cross_entropy(wide(logits), labels, reduction="none")


def weighted_cross_entropy(
    logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"], weights: Float[Tensor, " n"]
) -> Float[Tensor, ""]:
    """mean_u[w(u) CE(f(u), yhat(u))] over the batch size, not over the sum of the weights, which are detached."""
    return row_mean(weights.detach() * cross_entropy_rows(logits, labels))


def student_loss(
    labelled: Float[Tensor, "l c"],
    labels: Int[Tensor, " l"],
    unlabelled: Float[Tensor, "n c"],
    pseudo: Int[Tensor, " n"],
    weights: Float[Tensor, " n"],
) -> Float[Tensor, ""]:
    """CE(f(x_l), y_l) + mean_u[w(u) CE(f(u), yhat(u))]; a part without rows counts 0. Weights are not normalised."""
    return row_mean(cross_entropy_rows(labelled, labels)) + weighted_cross_entropy(unlabelled, pseudo, weights)


def weighted_divergence(
    logits: Float[Tensor, "n c"],
    teacher: Float[Tensor, "n c"],
    weights: Float[Tensor, " n"],
    *,
    keep: Bool[Tensor, "n c"] | None = None,
) -> Float[Tensor, ""]:
    """mean_u[w(u) KL(teacher(u) || softmax(f(u)))] over the batch size; `teacher` are probabilities softmax(z_bar).

    The term of the federation: what the other clients say of the proxy items, with this client's own weights. Teacher
    and weights are detached. Columns that are not in `keep` are dropped: `teacher` is 0 there.
    """
    rows = soft_target_rows(wide(logits), wide(teacher.detach()), temperature=1.0, keep=keep)
    return row_mean(weights.detach() * rows)


def promotion_share(iteration: int, *, alpha: float, split: int) -> float:
    """alpha_i = alpha (1 - min(i, split) / split)^2: the share of the pool that joins after iteration i, from 1.

    Raises:
        ValueError: an iteration or a split below 1.
    """
    if iteration < 1 or split < 1:
        raise ValueError(f"iteration {iteration} of split {split}; both are counted from 1")
    return float(alpha * (1.0 - min(iteration, split) / split) ** 2)


def promoted(losses: Float[Tensor, " n"], ids: Int[Tensor, " n"], *, share: float) -> Int[Tensor, " k"]:
    """Ids of the floor(share n) smallest losses CE(f(u), yhat(u)), smallest first; equal losses by smaller id.

    The order of the rows is irrelevant. NaN counts as the largest loss. Deviation: the authors leave ties to torch's
    topk, which promises no order.

    Raises:
        ValueError: lengths differ, or the share is outside 0..1.
    """
    if losses.shape != ids.shape:
        raise ValueError(f"{len(losses)} losses but {len(ids)} ids")
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share is {share}, expected 0..1")
    ids, by_id = ids.sort(stable=True)
    return ids[losses[by_id].argsort(stable=True)][: int(share * len(ids))]


def positions(ids: Int[Tensor, " n"], *, among: Int[Tensor, " m"]) -> Int[Tensor, " n"]:
    """Where each of `ids` stands in `among`, whatever the order of either.

    Raises:
        ValueError: `among` holds an id twice, or lacks one.
    """
    ordered, at = among.sort()
    if (ordered[1:] == ordered[:-1]).any():
        raise ValueError("an id occurs twice; ids must be unique to be aligned")
    found = torch.searchsorted(ordered, ids).clamp_max(max(len(ordered) - 1, 0))
    missing = ids if not len(ordered) else ids[ordered[found] != ids]
    if len(missing):
        raise ValueError(f"{len(missing)} ids have no row, the first is {missing[0].item()}")
    return at[found]

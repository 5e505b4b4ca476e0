"""Figures that need to know the true classes of unlabelled items: to judge a run by, never to train with."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata
from torch import Tensor

from fedkd.functional.wad import cross_entropy_rows
from fedkd.methods.wad.items import Items
from fedkd.methods.wad.stages import Guidance, Promotion
from fedkd.types import Array, Mask, Metrics


def auroc(scores: Array, positive: Mask) -> float:
    """Chance that a positive item scores higher than a negative one, ties counting half. Both sorts are there."""
    count = int(positive.sum())
    others = len(positive) - count
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * others))


def guidance_figures(items: Items, guidance: Guidance) -> Metrics:
    """How well weights tell known classes from unknown ones, and how right the pseudo labels of known items are.

    Over the client's own unlabelled items that are still in the pool; no figures of sorts that have no items, and none
    at all where classes are not told.
    """
    asked, true, known = _told(items, guidance.ids)
    if not asked.any():
        return {}
    weights, scores = (_array(table)[asked] for table in (guidance.weights, guidance.scores.amax(1)))
    right = _array(guidance.labels)[asked] == true
    figures: Metrics = {"pool_unknown": _mean(~known)}
    if known.any():
        figures |= {"weight_known": _mean(weights[known]), "pseudo_label_acc": _mean(right[known])}
    if not known.all():
        figures["weight_unknown"] = _mean(weights[~known])
    if known.any() and not known.all():
        figures["auroc"] = auroc(weights, known)
        figures["auroc_nearest"] = auroc(scores, known)  # of s_(1), the cosine to the nearest labelled item, alone
    return figures


def loss_figures(items: Items, guidance: Guidance, logits: Tensor) -> Metrics:
    """Shares of the unknown in sum_u w(u), and in sum_u w(u) CE(f(u), yhat(u)) of the student at these logits."""
    asked, _, known = _told(items, guidance.ids)
    if not asked.any():
        return {}
    weights = _array(guidance.weights)[asked]
    losses = weights * _array(cross_entropy_rows(logits, guidance.labels))[asked]
    return {"weight_share_unknown": _share(weights, ~known), "loss_share_unknown": _share(losses, ~known)}


def promotion_figures(items: Items, promotion: Promotion) -> Metrics:
    """How many joined, and which share of those whose class is told did so under their true class.

    Deviation: classes are told of the client's own unlabelled items alone, so `promoted` counts proxy items and
    `promoted_purity` does not.
    """
    asked, true, _ = _told(items, promotion.moved_ids)
    figures: Metrics = {"promoted": float(len(promotion.moved_ids))}
    if asked.any():
        figures["promoted_purity"] = _mean(_array(promotion.moved_labels)[asked] == true)
    return figures


def _told(items: Items, ids: Tensor) -> tuple[Mask, Array, Mask]:
    """Which of the ids have a told class (n,); of those the class, and whether it has labelled items."""
    labels, numbers = _array(items.labels), _array(ids)
    if items.groups is None:
        return np.zeros(len(numbers), np.bool_), np.zeros(0, np.int64), np.zeros(0, np.bool_)
    asked = (numbers >= len(labels)) & (numbers < items.proxy_start)
    true = items.groups[numbers[asked] - len(labels)]
    return asked, true, np.isin(true, labels)


def _array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().numpy()


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else 0.0


def _share(values: Array, chosen: Mask) -> float:
    total = values.sum()
    return float(values[chosen].sum() / total) if total > 0 else 0.0

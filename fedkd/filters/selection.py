"""The two-stage selection of EdgeFD: which proxy samples a client speaks for. Made once, before the first round."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedkd.data.base import Samples
from fedkd.errors import DataError
from fedkd.filters.base import Filter
from fedkd.types import Array, Ids, Mask

SCORE_BINS: Array = np.linspace(0.0, 1.0, 33)  # edges of the score histograms: 32 bins, exact in binary
SCORE_BINS.flags.writeable = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Selection:
    """What a client accepts of the proxy set, and how the scores lie.

    Attributes:
        accepted: (p,) mask over the proxy samples.
        threshold: the filter's; scores at or above it are accepted.
        score_holdout_counts: (32,) histogram over SCORE_BINS of the scores of the client's own hold-out.
        score_proxy_counts: (32,) the same of the proxy samples that others contributed.
    """

    accepted: Mask
    threshold: float
    score_holdout_counts: Ids
    score_proxy_counts: Ids


def select(
    filter: Filter,
    *,
    private: Samples,
    proxy: Samples,
    own_ids: Ids,
    own_sample_stage: bool,
    holdout: float,
    rng: np.random.Generator,
) -> Selection:
    """Fit and calibrate `filter` on the private samples and let it choose from the proxy set.

    Stage 1: with `own_sample_stage`, samples at `own_ids` are accepted unseen. Stage 2: the filter decides.
    A filter that does not declare `needs_proxy_labels` never sees labels of the proxy set.

    Args:
        filter: a new one; it is fitted here.
        private: what the client trains on; with keep_private its contributed samples are among them.
        holdout: share of the private samples to calibrate on, 0..1. At least one sample is held out and at least one
            fitted; a single sample serves for both.

    Raises:
        DataError: no private sample, or the filter returns something other than one finite score per sample.
    """
    fitted, held_out = _split(len(private), holdout, rng)
    filter.fit(private.take(fitted)).calibrate(private.take(held_out))
    seen = proxy if filter.needs_proxy_labels else Samples(proxy.x)
    foreign = np.ones(len(proxy), np.bool_)
    foreign[own_ids] = False
    others = seen.take(np.flatnonzero(foreign))
    if own_sample_stage:
        accepted = ~foreign
        accepted[foreign] = filter.accept(others)
    else:
        accepted = filter.accept(seen)
    return Selection(
        accepted=accepted,
        threshold=filter.threshold,
        score_holdout_counts=_histogram(filter, private.take(held_out)),
        score_proxy_counts=_histogram(filter, others),
    )


def _split(size: int, holdout: float, rng: np.random.Generator) -> tuple[Ids, Ids]:
    if size == 0:
        raise DataError("the client has no private sample to fit its filter on; use more data or fewer clients")
    order = rng.permutation(size)
    if size == 1:
        return order, order
    count = min(max(round(holdout * size), 1), size - 1)
    return np.sort(order[count:]), np.sort(order[:count])


def _histogram(filter: Filter, samples: Samples) -> Ids:
    """Counts (32,) of the scores; scores outside 0..1 fall into the outer bins, so that every sample counts."""
    scores = filter.score(samples)
    if scores.shape != (len(samples),) or not np.isfinite(scores).all():
        raise DataError(
            f"filter {type(filter).__name__} returned scores of shape {scores.shape} for {len(samples)} samples, "
            "expected one finite number each; correct its `score`"
        )
    counts, _ = np.histogram(np.clip(scores, 0.0, 1.0), SCORE_BINS)
    return counts.astype(np.int64, copy=False)

"""The two-stage selection of EdgeFD: which proxy samples a client speaks for. Made once, before the first round."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fedkd.data.base import Samples
from fedkd.errors import DataError
from fedkd.filters.base import Filter
from fedkd.filters.features import FeatureMap
from fedkd.types import Array, Ids, Mask

SCORE_BINS: Array = np.linspace(0.0, 1.0, 33)  # edges of the score histograms: 32 bins, exact in binary
SCORE_BINS.flags.writeable = False
RULES = ("threshold", "soft", "nearest")
OWN_MARGIN = 1e6  # of own samples that are accepted unseen: no filter's margin is larger
WEIGHT_FLOOR = 0.01  # rule soft: samples with less weight are not accepted


@dataclass(frozen=True, eq=False, kw_only=True)
class Selection:
    """What a client accepts of the proxy set, and how the scores lie.

    Attributes:
        accepted: (p,) mask over the proxy samples.
        margin: (p,) float32, at or above 0 where the filter accepts; OWN_MARGIN for own samples accepted unseen.
        weight: (p,) float32 of the rule soft, 0 where not accepted; None for the other rules.
        threshold: where the filter's threshold lies in the histograms.
        score_holdout_counts: (32,) histogram over SCORE_BINS of the scores of the client's own hold-out.
        score_proxy_counts: (32,) the same of the proxy samples that others contributed.

    Histograms show scores where these lie in 0..1 by nature. Density ratios have no upper end: there they show
    1 / (1 + e^-margin) = r / (r + T), with the threshold at one half.
    """

    accepted: Mask
    margin: Array
    weight: Array | None
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
    rule: str = "threshold",
    softness: float = 0.1,
    feature_map: FeatureMap | None = None,
) -> Selection:
    """Fit and calibrate `filter` on the private samples and let it choose from the proxy set.

    Stage 1: with `own_sample_stage`, samples at `own_ids` are accepted unseen. Stage 2: the filter decides. A selection
    that accepts nothing is legal: the client's share is then empty. A filter that does not declare `needs_proxy_labels`
    never sees labels of the proxy set.

    Args:
        filter: a new one; it is fitted here.
        private: what the client trains on; with keep_private its contributed samples are among them.
        holdout: share of the private samples to calibrate on, 0..1. At least one sample is held out and at least one
            fitted; a single sample serves for both.
        rule: threshold: accepted are the samples with margin >= 0. soft: each weighs 1 / (1 + e^(-margin / softness)),
            own samples of stage 1 weigh 1, and accepted is what weighs at least WEIGHT_FLOOR. nearest: all are
            accepted, for the coordinator to let the client with the largest margin speak for each.
        softness: of the rule soft, in units of the margin; > 0. Small tends to the threshold.
        feature_map: applied to private and proxy samples before the filter; fitted on the proxy set here, so that
            every client of the same proxy set has the same one. None: the inputs as they are.

    Raises:
        DataError: no private sample, no proxy sample, or the filter returns something other than one finite score and
            margin per sample.
    """
    if not len(proxy):
        raise DataError(
            "the proxy set is empty, so there is nothing to select; raise proxy.fraction or use more data, "
            "or set proxy.name = 'none' where nothing is to be exchanged"
        )
    fitted, held_out = split_holdout(len(private), holdout, rng)
    if feature_map is not None:
        feature_map.fit(Samples(proxy.x))
        private, proxy = (replace(each, x=feature_map.transform(each.x)) for each in (private, proxy))
    filter.fit(private.take(fitted)).calibrate(private.take(held_out))
    seen = proxy if filter.needs_proxy_labels else proxy.inputs()
    foreign = np.ones(len(proxy), np.bool_)
    foreign[own_ids] = False
    others = np.flatnonzero(foreign)
    tested = others if own_sample_stage else np.arange(len(proxy))
    margin = np.full(len(proxy), OWN_MARGIN)
    margin[tested] = _margins(filter, seen.take(tested))
    weight = None
    accepted = margin >= 0.0
    if rule == "soft":
        weight = 0.5 + 0.5 * np.tanh(margin / (2.0 * softness))
        accepted = weight >= WEIGHT_FLOOR
        weight = np.where(accepted, weight, 0.0).astype(np.float32)
    elif rule == "nearest":
        accepted = np.ones(len(proxy), np.bool_)
    return Selection(
        accepted=accepted,
        margin=margin.astype(np.float32),
        weight=weight,
        threshold=filter.threshold if filter.has_unit_scores else 0.5,
        score_holdout_counts=_histogram(filter, private.take(held_out)),
        score_proxy_counts=_histogram(filter, seen.take(others)),
    )


def split_holdout(size: int, holdout: float, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """Ascending indices to fit on and to calibrate on; at least one each, a single sample serves for both."""
    if size == 0:
        raise DataError("the client has no private sample to fit its filter on; use more data or fewer clients")
    order = rng.permutation(size)
    if size == 1:
        return order, order
    count = min(max(round(holdout * size), 1), size - 1)
    return np.sort(order[count:]), np.sort(order[:count])


def _margins(filter: Filter, samples: Samples) -> Array:
    """Margins (p,), within -1e6..1e6 so that own samples keep the largest."""
    return np.clip(_checked(filter, "margin", filter.margin(samples), len(samples)), -OWN_MARGIN, OWN_MARGIN)


def _histogram(filter: Filter, samples: Samples) -> Ids:
    """Counts (32,) of the scores; scores outside 0..1 fall into the outer bins, so that every sample counts."""
    if filter.has_unit_scores:
        scores = _checked(filter, "score", filter.score(samples), len(samples))
    else:
        scores = 0.5 + 0.5 * np.tanh(0.5 * _checked(filter, "margin", filter.margin(samples), len(samples)))
    counts, _ = np.histogram(np.clip(scores, 0.0, 1.0), SCORE_BINS)
    return counts.astype(np.int64, copy=False)


def _checked(filter: Filter, what: str, values: Array, size: int) -> Array:
    """`values`; DataError where they are not one finite number per sample."""
    if values.shape != (size,) or not np.isfinite(values).all():
        raise DataError(
            f"filter {type(filter).__name__} returned {what}s of shape {values.shape} for {size} samples, "
            f"expected one finite number each; correct its `{what}`"
        )
    return values

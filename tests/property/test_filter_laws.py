"""Laws of every filter in the table, and of KMeans."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedkd.data.base import Samples
from fedkd.filters import FILTERS
from fedkd.filters.base import Filter
from fedkd.filters.kmeans import KMeansConfig, KMeansFilter
from fedkd.filters.kulsif import KulsifConfig, KulsifFilter
from fedkd.filters.selection import select
from fedkd.filters.ulsif import UlsifConfig, UlsifFilter
from fedkd.lookup import resolve
from fedkd.types import Array

VALUES = st.floats(-1e3, 1e3, width=32)
SLOW = settings(deadline=None, max_examples=40)


@st.composite
def samples(draw: st.DrawFn, min_size: int = 1) -> Samples:
    size = draw(st.integers(min_size, 12))
    x: Array = draw(arrays(np.float32, (size, 2), elements=VALUES))
    return Samples(x, draw(arrays(np.int64, (size,), elements=st.integers(0, 2))))


def make(name: str, private: Samples, holdout: Samples) -> Filter:
    cls = resolve(FILTERS, name, what="filter")
    made: Filter = cls(cls.Config(), seed=0).fit(private).calibrate(holdout)
    return made


@pytest.mark.parametrize("name", FILTERS)
@SLOW
@given(private=samples(), holdout=samples(), proxy=samples(min_size=0))
def test_scores_lie_in_range_and_a_sample_is_judged_alone(
    name: str, private: Samples, holdout: Samples, proxy: Samples
) -> None:
    filter = make(name, private, holdout)
    scores, margins, accepted = filter.score(proxy), filter.margin(proxy), filter.accept(proxy)
    assert scores.shape == margins.shape == accepted.shape == (len(proxy),)
    assert np.isfinite(scores).all()
    assert np.isfinite(margins).all()
    if filter.has_unit_scores:
        assert ((scores >= 0) & (scores <= 1)).all()
    np.testing.assert_array_equal(accepted, margins >= 0)
    order = np.random.default_rng(0).permutation(len(proxy))[: len(proxy) // 2]
    np.testing.assert_array_equal(filter.score(proxy.take(order)), scores[order])
    np.testing.assert_array_equal(filter.margin(proxy.take(order)), margins[order])


@pytest.mark.parametrize("name", FILTERS)
@SLOW
@given(private=samples(), holdout=samples(), proxy=samples())
def test_whoever_scores_higher_is_accepted_too(name: str, private: Samples, holdout: Samples, proxy: Samples) -> None:
    filter = make(name, private, holdout)
    scores, accepted = filter.score(proxy), filter.accept(proxy)
    if accepted.any() and not accepted.all():
        assert scores[accepted].min() >= scores[~accepted].max()
    by_margin = np.lexsort((scores, filter.margin(proxy)))  # margins end at -1e6, where scores may still differ
    assert (np.diff(scores[by_margin]) >= 0).all()


@pytest.mark.parametrize("rule", ["quantile", "per_centroid"])
@SLOW
@given(private=samples(), holdout=samples(), quantile=st.floats(0.01, 1.0))
def test_at_least_q_of_the_hold_out_is_accepted(rule: str, private: Samples, holdout: Samples, quantile: float) -> None:
    config = KMeansConfig(quantile=quantile, threshold_rule=rule)
    kmeans = KMeansFilter(config, seed=0).fit(private).calibrate(holdout)
    assert kmeans.accept(holdout).sum() >= quantile * len(holdout) - 1e-9


@SLOW
@given(private=samples(), holdout=samples(), quantile=st.floats(0.01, 1.0))
def test_at_least_q_of_what_kulsif_did_not_know_is_accepted(
    private: Samples, holdout: Samples, quantile: float
) -> None:
    config = KulsifConfig(quantile=quantile, known_share=0.0, known_at_least=1)  # the first sample
    kulsif = KulsifFilter(config, seed=0).fit(private).calibrate(holdout)
    others = Samples(np.concatenate([private.x[1:], holdout.x]))
    assert kulsif.accept(others).sum() >= quantile * len(others) - 1e-9


@SLOW
@given(private=samples(), holdout=samples(), quantile=st.floats(0.01, 1.0))
def test_at_least_q_of_what_ulsif_did_not_use_is_accepted(private: Samples, holdout: Samples, quantile: float) -> None:
    ulsif = UlsifFilter(UlsifConfig(quantile=quantile), seed=0).fit(private).calibrate(holdout)  # it uses all
    assert ulsif.accept(holdout).sum() >= quantile * len(holdout) - 1e-9
    assert (ulsif.score(holdout) >= 0).all()


@SLOW
@given(private=samples(), holdout=samples(), proxy=samples(), low=st.floats(0.01, 1.0), high=st.floats(0.01, 1.0))
def test_a_larger_q_accepts_more(private: Samples, holdout: Samples, proxy: Samples, low: float, high: float) -> None:
    low, high = sorted((low, high))
    tight, loose = (
        KMeansFilter(KMeansConfig(quantile=q), seed=0).fit(private).calibrate(holdout).accept(proxy)
        for q in (low, high)
    )
    assert not (tight & ~loose).any()


@SLOW
@given(data=samples(min_size=2), k=st.integers(1, 15), fit=st.sampled_from(["per_class", "joint"]))
def test_any_number_of_centroids_on_any_data_works(data: Samples, k: int, fit: str) -> None:
    kmeans = KMeansFilter(KMeansConfig(k_per_class=k, fit=fit), seed=0).fit(data).calibrate(data)
    assert np.isfinite(kmeans.score(data)).all()
    assert 0.0 <= kmeans.threshold <= 1.0


@pytest.mark.parametrize("name", FILTERS)
@SLOW
@given(
    private=samples(),
    proxy=samples(),
    holdout=st.floats(0.01, 0.99),
    own=st.integers(0, 2**12 - 1),
    seed=st.integers(0, 9),
)
def test_stage_one_only_adds_own_samples(
    name: str, private: Samples, proxy: Samples, holdout: float, own: int, seed: int
) -> None:
    cls = resolve(FILTERS, name, what="filter")
    own_ids = np.array([i for i in range(len(proxy)) if own >> i & 1], np.int64)
    with_stage, without = (
        select(
            cls(cls.Config(), seed=0),
            private=private,
            proxy=proxy,
            own_ids=own_ids,
            own_sample_stage=stage,
            holdout=holdout,
            rng=np.random.default_rng(seed),
        )
        for stage in (True, False)
    )
    expected = without.accepted.copy()
    expected[own_ids] = True
    np.testing.assert_array_equal(with_stage.accepted, expected)
    assert with_stage.score_proxy_counts.sum() == len(proxy) - len(own_ids)

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np
import pytest

from fedkd.data.base import Samples
from fedkd.data.config import DataConfig
from fedkd.data.contribution import split_contribution
from fedkd.data.digits import load_digits
from fedkd.data.partitions import Strong, StrongConfig
from fedkd.errors import ConfigError, DataError
from fedkd.experiment import SelectionConfig
from fedkd.filters import FILTERS
from fedkd.filters.base import Filter
from fedkd.filters.features import FeatureMap
from fedkd.filters.kmeans import KMeansConfig, KMeansFilter
from fedkd.filters.oracle import Oracle, OracleConfig
from fedkd.filters.selection import OWN_MARGIN, SCORE_BINS, WEIGHT_FLOOR, Selection, select
from fedkd.lookup import resolve
from fedkd.types import Array


@final
class Recorder(Filter):
    """Scores a sample with its first feature and remembers what it is shown."""

    Config: ClassVar[type] = KMeansConfig

    def __init__(self) -> None:
        self.calls: list[tuple[str, Samples]] = []

    def fit(self, private: Samples) -> Recorder:
        self.calls.append(("fit", private))
        return self

    def calibrate(self, holdout: Samples) -> Recorder:
        self.calls.append(("calibrate", holdout))
        return self

    def score(self, proxy: Samples) -> Array:
        self.calls.append(("score", proxy))
        return proxy.x.reshape(len(proxy), -1)[:, 0]

    def margin(self, proxy: Samples) -> Array:
        self.calls.append(("margin", proxy))
        return proxy.x.reshape(len(proxy), -1)[:, 0] - 0.5

    @property
    def threshold(self) -> float:
        return 0.5

    def shown(self, name: str) -> Array:
        return np.concatenate([samples.x for call, samples in self.calls if call == name])


def column(*values: float) -> Samples:
    return Samples(np.array(values)[:, None])


def run(filter: Filter, private: Samples, proxy: Samples, own: list[int], **options: Any) -> Selection:
    defaults: dict[str, Any] = {"own_sample_stage": True, "holdout": 0.2, "rng": np.random.default_rng(0)}
    return select(filter, private=private, proxy=proxy, own_ids=np.array(own, np.int64), **(defaults | options))


def test_own_samples_are_accepted_unseen() -> None:
    recorder = Recorder()
    selection = run(recorder, column(*range(10)), column(0.1, 0.7, 0.2, 0.9), [0])
    assert selection.accepted.tolist() == [True, True, False, True]
    assert selection.threshold == 0.5
    assert 0.1 not in recorder.shown("score")
    assert 0.1 not in recorder.shown("margin")
    np.testing.assert_allclose(selection.margin, [OWN_MARGIN, 0.2, -0.3, 0.4], rtol=1e-6)
    assert selection.margin.dtype == np.float32
    assert selection.weight is None


def test_without_the_stage_own_samples_are_tested_like_the_rest() -> None:
    selection = run(Recorder(), column(*range(10)), column(0.1, 0.7, 0.2, 0.9), [0, 1], own_sample_stage=False)
    assert selection.accepted.tolist() == [False, True, False, True]
    np.testing.assert_allclose(selection.margin, [-0.4, 0.2, -0.3, 0.4], rtol=1e-6)


def test_soft_weights_take_the_place_of_the_mask() -> None:
    proxy = column(0.1, 0.5, 0.6, 0.05, 0.0)
    selection = run(Recorder(), column(*range(10)), proxy, [0], rule="soft", softness=0.1)
    weight = 1 / (1 + np.exp(-(proxy.x[:, 0] - 0.5) / 0.1))
    assert weight[3] > WEIGHT_FLOOR > weight[4]
    assert selection.weight is not None
    np.testing.assert_allclose(selection.weight, [1.0, *weight[1:4], 0.0], rtol=1e-5)
    assert selection.weight.dtype == np.float32
    assert selection.accepted.tolist() == [True, True, True, True, False]


def test_hard_weights_are_the_mask() -> None:
    proxy = column(0.1, 0.4999, 0.5001, 0.9)
    soft = run(Recorder(), column(*range(10)), proxy, [], rule="soft", softness=1e-6)
    assert soft.accepted.tolist() == run(Recorder(), column(*range(10)), proxy, []).accepted.tolist()
    assert soft.weight is not None
    assert soft.weight.tolist() == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("stage", [True, False])
def test_for_the_nearest_rule_a_client_offers_all_its_margins(stage: bool) -> None:
    selection = run(Recorder(), column(*range(10)), column(0.1, 0.7), [0], rule="nearest", own_sample_stage=stage)
    assert selection.accepted.tolist() == [True, True]
    np.testing.assert_allclose(selection.margin, [OWN_MARGIN if stage else -0.4, 0.2], rtol=1e-6)
    assert selection.weight is None


@pytest.mark.parametrize("name", ["kulsif", "ulsif"])
def test_histograms_of_ratios_show_their_share_of_ratio_and_threshold(name: str) -> None:
    cls = resolve(FILTERS, name, what="filter")
    rng = np.random.default_rng(0)
    private, proxy = Samples(rng.normal(size=(200, 3))), Samples(rng.normal(size=(100, 3)) * 2)
    filter = cls(cls.Config(), seed=0)
    selection = run(filter, private, proxy, [0], own_sample_stage=False)
    others = Samples(proxy.x[1:])
    expected = np.histogram(filter.score(others) / (filter.score(others) + filter.threshold), SCORE_BINS)[0]
    np.testing.assert_array_equal(selection.score_proxy_counts, expected)
    assert selection.threshold == 0.5
    assert selection.score_proxy_counts[16:].sum() == selection.accepted[1:].sum()  # the upper half is accepted
    assert selection.score_holdout_counts.sum() == 40


def test_a_feature_map_is_fitted_on_the_proxy_set_and_applied_to_all() -> None:
    shown: list[Samples] = []

    class Doubled(FeatureMap):
        def fit(self, proxy: Samples) -> Doubled:
            shown.append(proxy)
            return self

        def transform(self, x: Array) -> Array:
            return np.repeat(2 * x, 2, axis=1)

    recorder = Recorder()
    proxy = Samples(np.array([[0.1], [0.3]]), np.array([0, 1]))
    selection = run(recorder, column(*range(10)), proxy, [], feature_map=Doubled())
    assert [samples.y for samples in shown] == [None]
    np.testing.assert_array_equal(shown[0].x, proxy.x)
    assert selection.accepted.tolist() == [False, True]
    assert recorder.shown("fit").shape == (8, 2)
    assert set(recorder.shown("fit").ravel()) <= set(range(0, 20, 2))


def test_a_filter_may_accept_nothing() -> None:
    selection = run(Recorder(), column(*range(10)), column(0.1, 0.2), [])
    assert not selection.accepted.any()


def test_histograms_count_the_hold_out_and_the_samples_of_others() -> None:
    selection = run(Recorder(), column(*[0.26] * 10), column(0.0, 0.5, 1.0, 7.0, -1.0), [1], holdout=0.3)
    assert selection.score_holdout_counts.tolist() == [3 if i == 8 else 0 for i in range(32)]
    assert selection.score_proxy_counts.tolist() == [2, *[0] * 30, 2]  # beyond 0..1 counts in the outer bins
    assert len(SCORE_BINS) == 33
    assert not SCORE_BINS.flags.writeable


@pytest.mark.parametrize(("size", "fitted", "held_out"), [(100, 80, 20), (3, 2, 1), (2, 1, 1)])
def test_fit_and_hold_out_are_disjoint_and_lose_nothing(size: int, fitted: int, held_out: int) -> None:
    recorder = Recorder()
    run(recorder, column(*range(size)), column(0.1), [])
    fit, holdout = recorder.shown("fit"), recorder.shown("calibrate")
    assert (len(fit), len(holdout)) == (fitted, held_out)
    assert sorted([*fit[:, 0], *holdout[:, 0]]) == list(range(size))


def test_a_large_hold_out_leaves_one_to_fit() -> None:
    recorder = Recorder()
    run(recorder, column(1, 2), column(0.1), [], holdout=0.99)
    assert len(recorder.shown("fit")) == 1


def test_a_single_private_sample_serves_for_both() -> None:
    recorder = Recorder()
    run(recorder, column(4), column(0.1), [])
    assert recorder.shown("fit").tolist() == recorder.shown("calibrate").tolist() == [[4.0]]


def test_no_private_sample_is_an_error() -> None:
    with pytest.raises(DataError, match="no private sample"):
        run(Recorder(), column(), column(0.1), [])


@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 2, 5), (6, 1, 2, 2), (6, 2, 2, 2, 2)])
def test_any_number_of_dimensions_will_do(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).random(shape).astype(np.float32)
    selection = run(KMeansFilter(KMeansConfig(), seed=0), Samples(x), Samples(x), [])
    assert selection.accepted.shape == (6,)


def test_only_the_oracle_sees_labels_of_the_proxy() -> None:
    private = Samples(np.zeros((5, 1)), np.array([1, 1, 1, 1, 2]))
    proxy = Samples(np.zeros((4, 1)), np.array([0, 1, 2, 3]))
    recorder = Recorder()
    run(recorder, private, proxy, [])
    assert all(samples.y is None for name, samples in recorder.calls if name == "score" and len(samples) == 4)
    assert run(Oracle(OracleConfig(), seed=0), private, proxy, []).accepted.tolist() == [False, True, True, False]


def test_every_sample_own_or_no_sample_at_all() -> None:
    private = column(*np.linspace(0, 1, 10))
    everything = run(KMeansFilter(KMeansConfig(), seed=0), private, column(0.1, 9.0), [0, 1])
    assert everything.accepted.tolist() == [True, True]
    assert everything.score_proxy_counts.sum() == 0
    with pytest.raises(DataError, match="proxy set is empty"):
        run(KMeansFilter(KMeansConfig(), seed=0), private, column(), [])


@pytest.mark.parametrize("scores", [[[0.1], [0.2]], [0.1], [0.1, float("nan")]])
def test_a_filter_without_one_finite_score_per_sample_is_refused(scores: list[float]) -> None:
    class Broken(Recorder):  # type: ignore[misc]
        def score(self, proxy: Samples) -> Array:
            return np.array(scores)

    class Unmeasured(Recorder):  # type: ignore[misc]
        def margin(self, proxy: Samples) -> Array:
            return np.array(scores)

    with pytest.raises(DataError, match="filter Broken returned scores"):
        run(Broken(), column(*range(10)), column(0.1, 0.2), [])
    with pytest.raises(DataError, match="filter Unmeasured returned margins"):
        run(Unmeasured(), column(*range(10)), column(0.1, 0.2), [])


@pytest.fixture(scope="module")
def strong_digits() -> dict[bool, list[Selection]]:
    """Ten clients with one digit each, 10 % contributed: the selections with stage 1 on and off."""
    train = load_digits(DataConfig()).train
    rng = np.random.default_rng(0)
    parts = Strong(StrongConfig()).assign(train.labels, num_clients=10, num_classes=10, rng=rng)
    pieces = [split_contribution(len(ids), fraction=0.1, keep_private=False, rng=rng) for ids in parts]
    given_away = [ids[piece[0]] for ids, piece in zip(parts, pieces, strict=True)]
    proxy = train.take(np.concatenate(given_away))
    offsets = np.cumsum([0, *map(len, given_away)])
    selections: dict[bool, list[Selection]] = {True: [], False: []}
    for stage, found in selections.items():
        for client, ids in enumerate(parts):
            found.append(
                run(
                    KMeansFilter(KMeansConfig(), seed=0),
                    train.take(ids[pieces[client][1]]),
                    proxy,
                    list(range(offsets[client], offsets[client + 1])),
                    own_sample_stage=stage,
                )
            )
    return selections


def test_with_the_own_sample_stage_every_sample_has_a_voter(strong_digits: dict[bool, list[Selection]]) -> None:
    votes = np.stack([selection.accepted for selection in strong_digits[True]])
    assert votes.any(axis=0).all()


def test_without_it_some_samples_have_none(strong_digits: dict[bool, list[Selection]]) -> None:
    votes = np.stack([selection.accepted for selection in strong_digits[False]])
    assert 0.6 < votes.any(axis=0).mean() < 1.0


def test_the_stage_changes_nothing_for_samples_of_others(strong_digits: dict[bool, list[Selection]]) -> None:
    for with_stage, without in zip(strong_digits[True], strong_digits[False], strict=True):
        added = with_stage.accepted & ~without.accepted
        assert not (without.accepted & ~with_stage.accepted).any()
        assert added.sum() <= 15  # own samples alone: a tenth of some 144
        np.testing.assert_array_equal(with_stage.score_proxy_counts, without.score_proxy_counts)


def test_selecting_again_gives_the_same_mask_so_once_is_enough() -> None:
    """The mask depends on data and centroids, never on the model: nothing is left to do per round."""
    data = load_digits(DataConfig())
    first, second = (run(KMeansFilter(KMeansConfig(), seed=1), data.train, data.test, [3, 7]) for _ in range(2))
    np.testing.assert_array_equal(first.accepted, second.accepted)
    assert first.threshold == second.threshold


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rule": "sof"}, "did you mean 'soft'"),
        ({"softness": 0.0}, "greater than 0"),
        ({"features": "pixel"}, "did you mean 'pixels'"),
        ({"feature_dim": 0}, "at least 1"),
        ({"features": "checkpoint", "checkpoint": "net.safetensors"}, "torchvision name"),
        ({"features": "checkpoint", "checkpoint": "net.pth", "feature_model": "resnet18"}, "safetensors"),
    ],
)
def test_bad_keys_of_the_group_are_refused(options: dict[str, Any], said: str) -> None:
    assert SelectionConfig(rule="nearest", features="pca", softness=2.0).feature_dim == 64
    with pytest.raises(ConfigError, match=said):
        SelectionConfig(**options)

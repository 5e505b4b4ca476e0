"""The scikit-learn estimators, by scikit-learn's own checks and against the filters that they wrap."""

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from fedkd.data.base import Samples
from fedkd.errors import ConfigError
from fedkd.filters.estimators import ULSIF, KMeansDensity, KuLSIF

ESTIMATORS = [KMeansDensity(), KuLSIF(), ULSIF()]


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def blob(seed: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(size, 4))


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda each: type(each).__name__)
def test_own_rows_are_inliers_and_far_ones_are_not(estimator: Any) -> None:
    detector = clone(estimator).set_params(random_state=0).fit(blob(0, 1000))
    assert (detector.predict(blob(1, 1000)) == 1).mean() == pytest.approx(0.75, abs=0.06)
    assert (detector.predict(blob(2, 100) + 30) == -1).all()


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda each: type(each).__name__)
def test_scores_are_those_of_the_filter_and_a_seed_decides(estimator: Any) -> None:
    x = blob(0, 300)
    first, second = (clone(estimator).set_params(random_state=3).fit(x) for _ in range(2))
    np.testing.assert_array_equal(first.score_samples(x), second.score_samples(x))
    np.testing.assert_array_equal(first.score_samples(x), first.filter_.score(Samples(x)))
    np.testing.assert_array_equal(first.predict(x) == 1, first.filter_.accept(Samples(x)))
    other = clone(estimator).set_params(random_state=4).fit(x)
    assert (first.score_samples(x) != other.score_samples(x)).any()


def test_bad_parameters_are_refused_when_fitted() -> None:
    with pytest.raises(ConfigError):
        KMeansDensity(quantile=2.0).fit(blob(0, 20))

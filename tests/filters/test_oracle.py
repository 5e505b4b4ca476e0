import numpy as np
import pytest

from fedkd.data.base import Samples
from fedkd.errors import DataError
from fedkd.filters.oracle import Oracle, OracleConfig


def samples(labels: list[int]) -> Samples:
    return Samples(np.zeros((len(labels), 2), np.float32), np.array(labels))


def test_own_classes_are_accepted() -> None:
    oracle = Oracle(OracleConfig(), seed=0).fit(samples([3, 3])).calibrate(samples([3, 5]))
    assert oracle.accept(samples([3, 4, 5, 3])).tolist() == [True, False, True, True]  # 5 was in the hold-out alone


def test_it_says_that_it_needs_labels() -> None:
    assert Oracle.needs_proxy_labels
    oracle = Oracle(OracleConfig(), seed=0).fit(samples([1]))
    with pytest.raises(DataError, match="no labels"):
        oracle.accept(Samples(np.zeros((2, 2), np.float32)))


def test_a_label_per_pixel_is_refused() -> None:
    with pytest.raises(DataError, match="one label per sample"):
        Oracle(OracleConfig(), seed=0).fit(Samples(np.zeros((2, 1, 3, 3)), np.zeros((2, 3, 3), np.int64)))

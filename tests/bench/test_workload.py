"""Workload S: what is drawn, and that it is drawn alike everywhere."""

from __future__ import annotations

import numpy as np

from fedkd.bench.workload import draw, private, proxy
from fedkd.data.config import DataConfig
from fedkd.data.load import load_dataset


def test_sizes_and_types() -> None:
    found = private(DataConfig())
    assert (len(found.train), len(found.test), len(proxy(DataConfig()).train)) == (6000, 1000, 1000)
    assert found.train.x.shape[1:] == (1, 28, 28)
    assert found.train.x.dtype == np.float32
    np.testing.assert_allclose(np.bincount(found.train.labels) / 6000, 0.1, atol=0.02)


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    short, long = draw(5, 1), draw(20, 1)
    np.testing.assert_array_equal(short.x, long.x[:5])
    np.testing.assert_array_equal(short.labels, long.labels[:5])


def test_every_part_is_a_draw_of_its_own_from_the_same_prototypes() -> None:
    found = private(DataConfig(max_train=2000))
    parts = [found.train, found.test, proxy(DataConfig()).train]
    assert len({part.x[0, 0, 0, 0] for part in parts}) == 3
    means = [np.stack([part.x[part.labels == label].mean(0) for label in range(10)]) for part in parts]
    for mean in means[1:]:
        assert np.corrcoef(means[0].ravel(), mean.ravel())[0, 1] > 0.9
    assert abs(float((found.train.x - means[0][found.train.labels]).std()) - 1.0) < 0.02
    assert abs(float(means[0].std()) - 0.5) < 0.02


def test_a_configuration_names_it() -> None:
    found = load_dataset(DataConfig(name="fedkd.bench.workload:private", max_train=30, max_test=12))
    assert (found.name, len(found.train), len(found.test)) == ("workload_s", 30, 12)

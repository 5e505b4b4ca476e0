import numpy as np
import pytest

from fedkd.data.base import Dataset
from fedkd.data.config import DataConfig
from fedkd.data.figures import CLASSES, load_figures
from fedkd.data.load import load_dataset


@pytest.fixture(scope="module")
def figures() -> Dataset:
    return load_figures(DataConfig(name="figures"))


def test_it_is_always_the_same(figures: Dataset) -> None:
    again = load_figures(DataConfig(name="figures"))
    assert figures.train.x.shape == (480, 3, 32, 32)
    assert figures.train.x.dtype == np.float32
    assert figures.test.labels.shape == (200, 32, 32)
    np.testing.assert_array_equal(figures.train.x, again.train.x)
    np.testing.assert_array_equal(figures.test.labels, again.test.labels)
    assert not np.array_equal(figures.train.x[:200], figures.test.x)


def test_every_image_has_a_figure_and_no_class_leads_everywhere(figures: Dataset) -> None:
    groups = figures.train.strata
    assert set(groups) == {1, 2, 3}
    assert np.bincount(groups).max() < 0.6 * len(groups)
    assert set(np.unique(figures.train.labels)) == set(range(len(CLASSES)))
    ground = (figures.train.labels == 0).mean()
    assert 0.5 < ground < 0.9


def test_a_part_of_it_can_be_taken() -> None:
    assert len(load_dataset(DataConfig(name="figures", max_train=30)).train) == pytest.approx(30, abs=2)

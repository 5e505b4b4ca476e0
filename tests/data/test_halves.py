import numpy as np
import pytest

from fedkd.data.base import Dataset, Samples
from fedkd.data.config import DataConfig
from fedkd.data.halves import NOISE, halved, load_digit_halves
from fedkd.data.load import load_dataset


def test_two_halves_of_every_digit() -> None:
    data = load_digit_halves(DataConfig())
    assert (data.train.x.shape, data.train.more["b"].shape) == ((600, 32), (600, 32))
    assert (data.test.x.shape, data.test.more["b"].shape) == ((1197, 32), (1197, 32))
    assert data.train.x.dtype == data.train.more["b"].dtype == np.float32
    assert data.num_classes == 10
    counts = np.bincount(data.train.labels)
    assert (counts.min(), counts.max()) == (58, 61)


def test_halves_labels_and_images_stay_together() -> None:
    from sklearn.datasets import load_digits as original

    data = load_digit_halves(DataConfig())
    pixels, labels = original(return_X_y=True)
    own = np.concatenate([data.train.more["b"], data.test.more["b"]])
    given = np.concatenate([data.train.labels, data.test.labels])
    upper = np.concatenate([data.train.x, data.test.x])
    at = {bytes((half * 16).astype(np.uint8)): number for number, half in enumerate(pixels[:, 32:] / 16)}
    found = np.array([at[bytes((half * 16).astype(np.uint8))] for half in own])
    agree = labels[found] == given  # a few lower halves are equal though their digits differ
    assert agree.mean() > 0.99
    noise = (upper - pixels[found, :32] / 16)[agree]
    assert abs(np.median(noise)) < 0.01
    assert np.quantile(np.abs(noise), 0.6827) == pytest.approx(NOISE, abs=0.005)


def test_every_call_gives_the_same_and_the_table_knows_it() -> None:
    first, second = load_digit_halves(DataConfig()), load_dataset(DataConfig(name="digit_halves", max_train=100))
    assert len(second.train) == 100
    np.testing.assert_array_equal(first.test.x, second.test.x)
    np.testing.assert_array_equal(first.test.labels, second.test.labels)


def test_images_are_cut_into_an_upper_and_a_lower_half() -> None:
    x = np.arange(2 * 3 * 4 * 4, dtype=np.float32).reshape(2, 3, 4, 4)
    samples = Samples(x, np.array([0, 1]))
    cut = halved(Dataset(name="images", train=samples, test=samples, num_classes=2), name="halves")
    assert cut.name == "halves"
    np.testing.assert_array_equal(np.concatenate([cut.train.x, cut.train.more["b"]], axis=2), x)
    assert cut.input_shape == (3, 2, 4)

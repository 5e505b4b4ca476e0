import numpy as np

from fedkd.data.config import DataConfig
from fedkd.data.halves import NOISE, load_digit_halves
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
    assert np.quantile(np.abs(noise), 0.6827) == np.float32(NOISE) or 0.14 < np.quantile(np.abs(noise), 0.6827) < 0.17


def test_every_call_gives_the_same_and_the_table_knows_it() -> None:
    first, second = load_digit_halves(DataConfig()), load_dataset(DataConfig(name="digit_halves", max_train=100))
    assert len(second.train) == 100
    np.testing.assert_array_equal(first.test.x, second.test.x)
    np.testing.assert_array_equal(first.test.labels, second.test.labels)

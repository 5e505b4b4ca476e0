"""scikit-learn's digits: 1,797 real 8x8 images that come with the package. Nothing is downloaded."""

from __future__ import annotations

import numpy as np

from fedkd.data.base import Dataset, Samples, Scaling
from fedkd.data.config import DataConfig

TEST_SAMPLES = 360  # a fifth, the same share of each class
_SPLIT_SEED = 0  # part of the data set, never the experiment's seed: the test set is equal in every run


def load_digits(_config: DataConfig) -> Dataset:
    """The digits as (n, 1, 8, 8) float32 in 0..1: 1,437 for training and 360 for testing, stratified by class.

    The split is fixed. Runs with different seeds are tested on the same images and can be compared.
    """
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    pixels, labels = load(return_X_y=True)
    x = (pixels / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)  # pixels are counted from 0 to 16
    y = labels.astype(np.int64)
    train_x, test_x, train_y, test_y = train_test_split(
        x, y, test_size=TEST_SAMPLES, stratify=y, random_state=_SPLIT_SEED
    )
    return Dataset(
        name="digits",
        train=Samples(train_x, train_y),
        test=Samples(test_x, test_y),
        num_classes=10,
        class_names=tuple(str(digit) for digit in range(10)),
        scaling=Scaling((0.0,), (1.0,)),
    )

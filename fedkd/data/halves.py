"""Real images as two modalities: the upper half and the lower half of each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedkd.data.base import Dataset, Samples
from fedkd.data.cifar import load_cifar10
from fedkd.data.config import DataConfig

TRAIN_SAMPLES = 600  # the other 1,197 are for testing
NOISE = 0.15  # standard deviation of what is added to the upper half
_SEED = 0  # part of the data set, never the experiment's seed: split and noise are equal in every run


def load_digit_halves(_config: DataConfig) -> Dataset:
    """1,797 real digits: x the upper four rows (n, 32) with Gaussian noise, more["b"] the lower four (n, 32).

    Pixels lie in 0..1 before the noise. 600 samples for training, stratified by class. Task `image_text`.
    """
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    pixels, labels = load(return_X_y=True)
    halves = (pixels / 16.0).astype(np.float32)  # pixels are counted from 0 to 16
    noise = np.random.default_rng(_SEED).standard_normal((len(halves), 32)).astype(np.float32)
    upper, lower, y = halves[:, :32] + NOISE * noise, halves[:, 32:], labels.astype(np.int64)
    train, test = train_test_split(np.arange(len(y)), train_size=TRAIN_SAMPLES, stratify=y, random_state=_SEED)
    return Dataset(
        name="digit_halves",
        train=Samples(upper[train], y[train], more={"b": lower[train]}),
        test=Samples(upper[test], y[test], more={"b": lower[test]}),
        num_classes=10,
        class_names=tuple(str(digit) for digit in range(10)),
    )


def load_cifar10_halves(config: DataConfig) -> Dataset:
    """CIFAR-10: x the upper half (n, 3, 16, 32), more["b"] the lower one. Files as for `cifar10`."""
    return halved(load_cifar10(config).scaled(), name=config.name)


def halved(whole: Dataset, *, name: str) -> Dataset:
    """The same with images cut in two: the upper half is the main input, the lower one `more["b"]`."""

    def cut(samples: Samples) -> Samples:
        middle = samples.x.shape[2] // 2
        return replace(samples, x=samples.x[:, :, :middle], more={"b": samples.x[:, :, middle:]})

    return replace(whole, name=name, train=cut(whole.train), test=cut(whole.test))

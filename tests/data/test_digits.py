import numpy as np

from fedkd.data.config import DataConfig
from fedkd.data.digits import load_digits


def test_shapes_range_and_types() -> None:
    digits = load_digits(DataConfig())
    assert (digits.train.x.shape, digits.test.x.shape) == ((1437, 1, 8, 8), (360, 1, 8, 8))
    assert digits.input_shape == (1, 8, 8)
    assert digits.train.x.dtype == np.float32
    assert digits.train.labels.dtype == np.int64
    assert (digits.train.x.min(), digits.train.x.max()) == (0.0, 1.0)
    assert digits.num_classes == 10
    assert digits.class_names == tuple("0123456789")


def test_the_split_is_stratified_and_loses_nothing() -> None:
    from sklearn.datasets import load_digits as original

    digits = load_digits(DataConfig())
    pixels, labels = original(return_X_y=True)
    ours = np.concatenate([digits.train.x, digits.test.x]).reshape(-1, 64) * 16
    assert sorted(map(bytes, ours.astype(np.uint8))) == sorted(map(bytes, pixels.astype(np.uint8)))
    share = np.bincount(digits.test.labels) / np.bincount(labels)
    np.testing.assert_allclose(share, 0.2, atol=0.005)


def test_labels_stay_with_their_images() -> None:
    from sklearn.datasets import load_digits as original

    digits = load_digits(DataConfig())
    pixels, labels = original(return_X_y=True)
    label_of = {bytes(image.astype(np.uint8)): label for image, label in zip(pixels, labels, strict=True)}
    for part in (digits.train, digits.test):
        images = (part.x.reshape(-1, 64) * 16).astype(np.uint8)
        assert [label_of[bytes(image)] for image in images] == part.labels.tolist()


def test_every_call_splits_alike() -> None:
    first, second = load_digits(DataConfig()), load_digits(DataConfig())
    np.testing.assert_array_equal(first.train.x, second.train.x)
    np.testing.assert_array_equal(first.test.labels, second.test.labels)

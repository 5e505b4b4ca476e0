import numpy as np
import pytest

from fedkd.data.base import Dataset, ImageSet, Samples, Scaling
from fedkd.errors import DataError

HALVES = Scaling((0.5, 0.0, 0.25), (0.5, 1.0, 0.25))


def test_scaling_by_hand() -> None:
    bytes_ = np.array([0, 255, 51], np.uint8).reshape(1, 3, 1, 1)
    inputs = HALVES.apply(bytes_)
    np.testing.assert_allclose(inputs.reshape(-1), [-1.0, 1.0, -0.2], atol=1e-6)  # (51 / 255 - 0.25) / 0.25
    assert inputs.dtype == np.float32
    np.testing.assert_allclose(
        HALVES.apply(np.array([0.0, 1.0, 0.2], np.float32).reshape(1, 3, 1, 1)), inputs, atol=1e-6
    )


def test_undoing_a_scaling_gives_the_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 2, 2), np.uint8)
    np.testing.assert_allclose(HALVES.undo(HALVES.apply(pixels)), pixels / 255, atol=1e-6)


def test_an_image_set_becomes_a_data_set() -> None:
    x, y = np.full((2, 1, 3, 3), 255, np.uint8), np.array([0, 1])
    images = ImageSet(
        name="tiny", train=Samples(x, y), test=Samples(x[:1], y[:1]), num_classes=2, scaling=Scaling((0.0,), (0.5,))
    )
    data = images.scaled()
    np.testing.assert_array_equal(data.train.x, np.full((2, 1, 3, 3), 2.0, np.float32))
    assert (data.name, data.num_classes, data.scaling, len(data.test)) == ("tiny", 2, images.scaling, 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_inputs_that_are_not_finite_are_refused_with_their_place(bad: float) -> None:
    x = np.zeros((4, 2), np.float32)
    x[2, 1] = bad
    good = Samples(np.zeros((1, 2), np.float32), np.array([0]))
    with pytest.raises(DataError, match="train: 1 of 4 inputs hold NaN or infinite values, the first at index 2"):
        Dataset(name="holes", train=Samples(x, np.zeros(4, np.int64)), test=good, num_classes=1)

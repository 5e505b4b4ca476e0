import numpy as np
import pytest

from fedkd.data.base import IGNORE, Dataset, ImageSet, Samples, Scaling
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


def test_samples_travel_by_name() -> None:
    """Further inputs and groups go with x; what enters a proxy set has neither targets nor groups."""
    whole = Samples(np.zeros((3, 2)), np.array([0, 1, 2]), {"t": np.array([7, 8, 9])}, np.array([1, 0, 1]))
    taken = Samples.of_arrays(whole.take(np.array([2, 0])).arrays())
    assert taken.labels.tolist() == [2, 0]
    assert taken.more["t"].tolist() == [9, 7]
    assert taken.strata.tolist() == [1, 1]
    assert sorted(whole.inputs().arrays()) == ["more.t", "x"]


@pytest.mark.parametrize(
    ("samples", "strata"),
    [
        (Samples(np.zeros((3, 1)), np.array([2, 0, 1])), [2, 0, 1]),
        (Samples(np.zeros((3, 1)), np.zeros((3, 4, 4), np.int64)), [0, 0, 0]),
        (Samples(np.zeros((3, 1)), np.array([2, 0, 1]), groups=np.array([0, 1, 1])), [0, 1, 1]),
        (Samples(np.zeros((3, 1))), [0, 0, 0]),
    ],
)
def test_partitions_count_by_groups_else_classes_else_nothing(samples: Samples, strata: list[int]) -> None:
    assert samples.strata.tolist() == strata


def masks(first: int, *, groups: list[int]) -> Dataset:
    """Two samples with a target at each of two positions."""
    y = np.array([[first, 1], [2, IGNORE]], np.int64)
    samples = Samples(np.zeros((2, 2), np.float32), y, groups=np.array(groups))
    return Dataset(name="masks", train=samples, test=samples, num_classes=3, num_groups=2)


def test_targets_by_position_may_be_ignored() -> None:
    dataset = masks(0, groups=[0, 1])
    assert (dataset.num_strata, dataset.train.strata.tolist()) == (2, [0, 1])


@pytest.mark.parametrize(
    ("first", "groups", "message"),
    [
        (3, [0, 1], "labels run from 1 to 3, expected 0 to 2"),
        (-1, [0, 1], "labels run from -1 to 2"),
        (0, [0, 2], "groups run from 0 to 2, expected 0 to 1"),
        (0, [0], "groups are .* of shape"),
    ],
)
def test_targets_and_groups_out_of_range_are_refused(first: int, groups: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        masks(first, groups=groups)

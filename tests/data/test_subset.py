import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.data.base import Samples
from fedkd.data.config import DataConfig
from fedkd.data.load import load_dataset
from fedkd.data.subset import reduced, split_off, stratified
from fedkd.errors import DataError

LABELS = st.lists(st.integers(0, 4), min_size=2, max_size=60).map(lambda labels: np.array(labels, np.int64))


def test_a_stratified_draw_by_hand() -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    drawn = stratified(labels, 10, np.random.default_rng(0))
    assert np.bincount(labels[drawn]).tolist() == [6, 3, 1]
    drawn = stratified(
        labels, 4, np.random.default_rng(0)
    )  # 2.4, 1.2, 0.4: the spare one makes the third class present
    assert np.bincount(labels[drawn]).tolist() == [2, 1, 1]


@given(labels=LABELS, share=st.floats(0, 1), seed=st.integers(0, 9))
def test_a_stratified_draw_has_its_size_every_class_and_fair_shares(
    labels: np.ndarray, share: float, seed: int
) -> None:
    classes, sizes = np.unique(labels, return_counts=True)
    count = round(len(classes) + share * (len(labels) - len(classes)))
    drawn = stratified(labels, count, np.random.default_rng(seed))
    assert len(drawn) == count
    assert (np.diff(drawn) > 0).all()
    counts = np.array([(labels[drawn] == label).sum() for label in classes])
    assert (counts >= 1).all()
    assert (counts <= sizes).all()
    big = count * sizes / len(labels) >= 1
    assert big.all() <= (np.abs(counts - count * sizes / len(labels)) < 1 + 1e-9).all()


@given(labels=LABELS, share=st.floats(0.001, 0.999))
def test_a_split_loses_nothing_and_leaves_a_sample_of_each_class(labels: np.ndarray, share: float) -> None:
    if np.bincount(labels).max() < 2:
        with pytest.raises(DataError, match="no two of one class"):
            split_off(labels, share, "test")
        return
    stays, goes = split_off(labels, share, "test")
    np.testing.assert_array_equal(np.sort(np.concatenate([stays, goes])), np.arange(len(labels)))
    assert (np.diff(stays) > 0).all()
    assert (np.diff(goes) > 0).all()
    assert set(labels[stays]) == set(labels)
    assert set(labels[goes]) == {label for label in labels if (labels == label).sum() > 1}
    again = split_off(labels, share, "test")
    np.testing.assert_array_equal(again[1], goes)


def test_the_names_of_draws_are_independent() -> None:
    labels = np.zeros(100, np.int64)
    assert (split_off(labels, 0.2, "test")[1] != split_off(labels, 0.2, "validation")[1]).any()


def test_validation_comes_first_and_the_test_set_plays_no_part() -> None:
    x = np.arange(100, dtype=np.float32)[:, None]
    train = Samples(x, np.arange(100) % 5)
    test = Samples(-x, np.arange(100) % 5)
    whole = reduced(train, test, DataConfig(validation=0.2))
    small = reduced(train, test, DataConfig(validation=0.2, max_train=10, max_test=5))
    assert [len(part) for part in (*whole, *small)] == [80, 20, 10, 5]
    assert min(part.x.min() for part in (*whole, *small)) >= 0
    assert set(small[0].x.flat) <= set(whole[0].x.flat)
    assert set(small[1].x.flat) <= set(whole[1].x.flat)
    assert not set(whole[0].x.flat) & set(whole[1].x.flat)
    assert np.bincount(small[0].labels).tolist() == [2] * 5


def test_zero_or_more_than_there_is_takes_all() -> None:
    data = load_dataset(DataConfig())
    assert len(load_dataset(DataConfig(max_train=5000)).train) == len(data.train)


def test_too_few_for_the_classes_is_an_error() -> None:
    with pytest.raises(
        DataError, match=r"data\.max_train is 9, fewer than the 10 classes of the data; give 10 or more"
    ):
        load_dataset(DataConfig(max_train=9))


def test_targets_that_are_no_classes_are_drawn_evenly() -> None:
    masks = Samples(np.zeros((10, 2), np.float32), np.zeros((10, 4, 4), np.int64))
    train, test = reduced(masks, masks, DataConfig(validation=0.3, max_train=4))
    assert (len(train), len(test)) == (4, 3)

import numpy as np
import pytest
import torch

from fedkd.data.base import Samples
from fedkd.errors import DataError
from fedkd.filters.conv_features import RandomConvFeatures
from fedkd.filters.features import BLOCK_ROWS
from fedkd.types import Array


def images(seed: int, size: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=(size, *shape)).astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 11), (1, 28, 28), (3, 32, 32), (5, 9, 64)])
def test_any_channels_and_sizes_of_at_least_eight(shape: tuple[int, ...]) -> None:
    x = images(0, 5, *shape)
    found = RandomConvFeatures(16).fit(Samples(x)).transform(x)
    assert found.shape == (5, 16)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert found.std() > 0.05


def test_all_clients_have_one_net_whatever_torch_was_seeded_with() -> None:
    x = images(0, 20, 1, 12, 12)
    torch.manual_seed(1)
    first = RandomConvFeatures(8).fit(Samples(x)).transform(x)
    torch.manual_seed(2)
    np.testing.assert_array_equal(RandomConvFeatures(8).fit(Samples(x)).transform(x), first)


def test_a_row_has_the_same_features_in_any_company_and_with_any_threads() -> None:
    x = images(0, BLOCK_ROWS + 5, 3, 10, 10)
    conv = RandomConvFeatures(8).fit(Samples(x))
    whole = conv.transform(x)
    for size in (0, 1, 7, BLOCK_ROWS):
        np.testing.assert_array_equal(conv.transform(x[:size]), whole[:size])
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        np.testing.assert_array_equal(conv.transform(x), whole)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_inputs_are_standardised_by_the_proxy_set() -> None:
    x = images(0, 30, 1, 8, 8)
    plain = RandomConvFeatures(8).fit(Samples(x)).transform(x)
    scaled = RandomConvFeatures(8).fit(Samples(100 * x + 7)).transform(100 * x + 7)
    np.testing.assert_allclose(scaled, plain, atol=1e-3)
    constant = np.ones((4, 1, 8, 8), np.float32)
    assert np.isfinite(RandomConvFeatures(8).fit(Samples(constant)).transform(constant)).all()


@pytest.mark.parametrize("shape", [(64,), (1, 7, 8), (8, 8)])
def test_other_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"random_conv' got inputs of shape .*, expected images"):
        RandomConvFeatures(4).fit(Samples(images(0, 3, *shape)))

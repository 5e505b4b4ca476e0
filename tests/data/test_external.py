from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedkd.data.base import Dataset, Samples, Scaling
from fedkd.data.config import DataConfig
from fedkd.data.external import load_external_proxy
from fedkd.data.load import load_dataset
from fedkd.errors import DataError


def private(shape: tuple[int, ...], scaling: Scaling | None) -> Dataset:
    part = Samples(np.zeros((2, *shape), np.float32), np.array([0, 1]))
    return Dataset(name="private", train=part, test=part, num_classes=2, scaling=scaling)


@pytest.fixture
def mnist(write_mnist: Any) -> DataConfig:
    return DataConfig(name="mnist", root=str(write_mnist()))


def test_the_proxy_looks_like_the_private_data(mnist: DataConfig, images: Any) -> None:
    halves = Scaling((0.5,), (0.5,))
    proxy = load_external_proxy(mnist, private((1, 28, 28), halves))
    assert proxy.y is None
    assert proxy.x.dtype == np.float32
    np.testing.assert_allclose(proxy.x, images(30, seed=1)[0][:, None] / 127.5 - 1, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 28, 28), (1, 20, 30)])
def test_images_take_the_private_shape(mnist: DataConfig, shape: tuple[int, ...]) -> None:
    scaling = Scaling((0.0,) * shape[0], (1.0,) * shape[0])
    proxy = load_external_proxy(mnist, private(shape, scaling))
    assert proxy.x.shape == (30, *shape)
    assert (proxy.x.min(), proxy.x.max()) >= (0.0, 0.5)
    if shape[0] == 3:
        np.testing.assert_array_equal(proxy.x[:, 0], proxy.x[:, 2])


def test_colours_become_grey_by_their_brightness(tmp_path: Any) -> None:
    x = np.zeros((10, 3, 4, 4), np.uint8)
    x[:, 1] = 255  # green
    np.savez(tmp_path / "green.npz", x=x, y=np.arange(10) % 2)
    config = DataConfig(name="npz", root=str(tmp_path / "green.npz"))
    proxy = load_external_proxy(config, private((1, 4, 4), Scaling((0.0,), (1.0,))))
    np.testing.assert_allclose(proxy.x, 0.587, atol=1e-5)


def test_a_smaller_draw_is_the_same_on_every_machine(mnist: DataConfig) -> None:
    like = load_dataset(mnist)
    whole, first, second = (load_external_proxy(mnist, like, max_samples=count) for count in (0, 10, 10))
    assert [len(proxy) for proxy in (whole, first, second)] == [30, 10, 10]
    np.testing.assert_array_equal(first.x, second.x)
    rows = {bytes(x) for x in whole.x}
    assert all(bytes(x) in rows for x in first.x)


def test_the_private_options_of_the_other_set_play_no_part(mnist: DataConfig) -> None:
    config = DataConfig(name="mnist", root=mnist.root, validation=0.5, max_train=10)
    assert len(load_external_proxy(config, load_dataset(mnist))) == 30


def test_digits_serve_mnist(mnist: DataConfig) -> None:
    like = load_dataset(mnist)
    proxy = load_external_proxy(DataConfig(name="digits"), like, max_samples=50)
    assert proxy.x.shape == (50, 1, 28, 28)
    assert like.scaling is not None
    pixels = like.scaling.undo(proxy.x)
    assert pixels.min() >= -1e-5
    assert pixels.max() <= 1 + 1e-5


def test_what_is_no_image_must_fit_as_it_is(mnist: DataConfig, tmp_path: Any) -> None:
    np.savez(tmp_path / "rows.npz", x=np.eye(4).repeat(3, axis=0), y=np.arange(12) % 2)
    rows = DataConfig(name="npz", root=str(tmp_path / "rows.npz"))
    assert load_external_proxy(rows, private((4,), None)).x.shape[1:] == (4,)
    for config, like in ((rows, private((5,), None)), (mnist, private((4,), None)), (rows, load_dataset(mnist))):
        with pytest.raises(DataError, match=r"has inputs of shape .* and not both are images that could be converted"):
            load_external_proxy(config, like)


def test_other_channels_are_refused(mnist: DataConfig) -> None:
    with pytest.raises(DataError, match="'mnist' has 1 channels, the private data 4; only 1 and 3 convert"):
        load_external_proxy(mnist, private((4, 28, 28), Scaling((0.0,) * 4, (1.0,) * 4)))


def _tuples(prompt: int = 6) -> Dataset:
    part = Samples(
        np.zeros((2, 1, 8, 8), np.float32),
        more={"t": np.zeros(2, np.int64), "prompt": np.zeros((2, prompt), np.int32)},
        groups=np.zeros(2, np.int64),
    )
    return Dataset(name="tuples", train=part, test=part, num_classes=1, num_groups=1)


def test_further_inputs_that_the_private_data_have_come_along() -> None:
    config = DataConfig(name="prompted_noise")
    proxy = load_external_proxy(config, _tuples(), max_samples=10)
    assert proxy.y is None
    assert {name: array.shape for name, array in proxy.more.items()} == {"t": (10,), "prompt": (10, 6)}
    assert load_external_proxy(config, private((1, 8, 8), None)).more == {}


def test_tuples_without_all_their_inputs_are_refused(tmp_path: Any) -> None:
    np.savez(tmp_path / "latents.npz", x=np.zeros((6, 1, 8, 8), np.float32), y=np.arange(6) % 2)
    config = DataConfig(name="npz", root=str(tmp_path / "latents.npz"))
    with pytest.raises(DataError, match=r"lacks 'prompt', 't', which samples of the private data 'tuples' have"):
        load_external_proxy(config, _tuples())
    masked = _tuples()
    masked = replace(masked, train=replace(masked.train, more={**masked.train.more, "mask": np.zeros(2, bool)}))
    with pytest.raises(DataError, match=r"'prompted_noise' lacks 'mask'.*has 'mask', 'prompt', 't', or add"):
        load_external_proxy(DataConfig(name="prompted_noise"), masked)
    texts = replace(masked, train=replace(masked.train, more={"mask": np.zeros(2, bool)}))
    assert load_external_proxy(DataConfig(name="prompted_noise"), texts).more == {}  # no tuples: one may be missing


def test_further_inputs_of_another_form_are_refused() -> None:
    with pytest.raises(DataError, match=r"has 'prompt' of shape \(6,\) and type int32, the private data 'tuples' of"):
        load_external_proxy(DataConfig(name="prompted_noise"), _tuples(prompt=7))

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedkd.data.images import centred, decode_images, resized
from fedkd.errors import DataError
from fedkd.types import Array

Encode = Any


def decode(sources: list[Any], image_size: int = 0) -> Array:
    return decode_images(sources, image_size=image_size, name_of=lambda i: f"number {i}")


def test_grey_images_have_one_channel(encode: Encode) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5), np.uint8)
    np.testing.assert_array_equal(decode([encode(image) for image in images]), images[:, None])


def test_one_colour_image_makes_all_colour(encode: Encode, write_image: Any) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    pixels = decode([encode(colour), write_image("grey.png", value=7)])
    np.testing.assert_array_equal(pixels[0], colour.transpose(2, 0, 1))
    np.testing.assert_array_equal(pixels[1], np.full((3, 6, 6), 7))


@pytest.mark.parametrize(("mode", "value"), [("RGBA", (9, 9, 9, 128)), ("P", 0), ("LA", (9, 128)), ("1", 1)])
def test_other_modes_are_converted(write_image: Any, mode: str, value: Any) -> None:
    pixels = decode([write_image(f"{mode}.png", mode=mode, value=value)])
    assert pixels.shape == (1, 1 if mode in ("LA", "1") else 3, 6, 6)


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 30_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"number 0 is an image of mode 'I;16', expected 8 bits"):
        decode([tmp_path / "deep.png"])


def test_sizes_may_differ_where_one_is_given(write_image: Any) -> None:
    sources = [write_image("a.png"), write_image("b.png"), write_image("c.png", size=(7, 6))]
    with pytest.raises(DataError, match=r"number 0 is 6x6, number 2 is 7x6; set data\.image_size"):
        decode(sources)
    pixels = decode(sources, image_size=5)
    assert pixels.shape == (3, 1, 5, 5)
    assert (pixels == 100).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif"])
def test_a_damaged_image_is_named(write_image: Any, suffix: str) -> None:
    good, bad = write_image(f"good.{suffix}", size=(64, 64)), write_image(f"bad.{suffix}", size=(64, 64))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(noise).save(bad)
    data = bad.read_bytes()
    for damaged in (data[: len(data) // 2], data[:10], b"", b"no image at all"):
        bad.write_bytes(damaged)
        with pytest.raises(DataError, match=r"image number 1 cannot be read: .+; replace it"):
            decode([good, bad])


def test_resizing_keeps_even_areas_and_averages() -> None:
    np.testing.assert_allclose(resized(np.full((2, 3, 4, 6), 0.5, np.float32), (7, 5)), np.full((2, 3, 7, 5), 0.5))
    halves = np.zeros((1, 1, 4, 4), np.float32)
    halves[..., 2:] = 1.0
    small = resized(halves, (2, 2))
    assert (small[..., 0] < 0.2).all()
    assert (small[..., 1] > 0.8).all()
    assert resized(halves, (4, 4)) is halves


def test_centred_pixels_lie_between_minus_one_and_one() -> None:
    extremes = np.array([0, 255], np.uint8).reshape(1, 1, 1, 2)
    assert centred(1).apply(extremes).tolist() == [[[[-1.0, 1.0]]]]

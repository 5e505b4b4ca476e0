"""Encoded images (PNG, JPEG and so on) to one array, with every fault named."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fedkd.data.base import Scaling
from fedkd.errors import DataError
from fedkd.types import Array

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

Source: TypeAlias = Path | bytes
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
_GREY = ("1", "L", "LA")
_COLOUR = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
# What Pillow raises at damaged files; SyntaxError where a PNG is broken, OSError where data end early.
_UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, struct.error, MemoryError)


def centred(channels: int) -> Scaling:
    """Pixels to -1..1: for images whose statistics nobody knows. It is fixed, so that clients of any data agree."""
    return Scaling((0.5,) * channels, (0.5,) * channels)


def decode_images(sources: Sequence[Source], *, image_size: int, name_of: Callable[[int], str]) -> Array:
    """Pixels (n, c, h, w) uint8: one channel where every image is grey, else three. Transparency is dropped.

    Args:
        image_size: width and height that every image is resized to (bilinear, proportions are not kept); 0 leaves them.
        name_of: what messages call the image at a position.

    Raises:
        DataError: an image cannot be read, or the sizes differ and no `image_size` is given.
    """
    sizes, modes = zip(*(_header(source, name_of, i) for i, source in enumerate(sources)), strict=True)
    odd = next((i for i, size in enumerate(sizes) if size != sizes[0]), None)
    if odd is not None and not image_size:
        raise DataError(
            f"images differ in size: {name_of(0)} is {_words(sizes[0])}, {name_of(odd)} is {_words(sizes[odd])}; set "
            "data.image_size to resize them all (folder, hub), or bring them to one size"
        )
    width, height = (image_size, image_size) if image_size else sizes[0]
    mode, channels = ("L", 1) if all(found in _GREY for found in modes) else ("RGB", 3)
    pixels = np.empty((len(sources), channels, height, width), np.uint8)
    for i, source in enumerate(sources):
        decoded = _decoded(source, mode, (width, height), name_of, i)
        pixels[i] = decoded.reshape(height, width, channels).transpose(2, 0, 1)
    return pixels


def decode_masks(sources: Sequence[Source], *, name_of: Callable[[int], str]) -> Array:
    """Class numbers (n, h, w) uint8 as the pixels of grey or palette images hold them, not as colours.

    Raises:
        DataError: an image cannot be read, is in colour, or the sizes differ.
    """
    maps = []
    for i, source in enumerate(sources):
        try:
            with _open(source, name_of, i) as image:
                if image.mode not in ("L", "P"):
                    raise DataError(
                        f"mask {name_of(i)} is an image of mode {image.mode!r}, expected one class number a pixel "
                        "(grey or palette); convert it"
                    )
                maps.append(np.asarray(image))
        except _UNREADABLE as error:
            raise _damaged(name_of(i), error) from error
        if maps[i].shape != maps[0].shape:
            raise DataError(f"masks differ in size: {name_of(0)} is {maps[0].shape}, {name_of(i)} is {maps[i].shape}")
    return np.stack(maps)


def resized(pixels: Array, size: tuple[int, int]) -> Array:
    """Pixels (n, c, *size) float32 from pixels (n, c, h, w); bilinear, averaging where it shrinks."""
    if pixels.shape[2:] == size:
        return pixels
    from PIL import Image

    resampling, shape = Image.Resampling.BILINEAR, (size[1], size[0])  # Pillow counts width first
    planes = pixels.astype(np.float32, copy=False).reshape(-1, *pixels.shape[2:])
    return np.stack([np.asarray(Image.fromarray(plane).resize(shape, resampling)) for plane in planes]).reshape(
        *pixels.shape[:2], *size
    )


def _header(source: Source, name_of: Callable[[int], str], position: int) -> tuple[tuple[int, int], str]:
    with _open(source, name_of, position) as image:
        if image.mode not in (*_GREY, *_COLOUR):
            raise DataError(
                f"{name_of(position)} is an image of mode {image.mode!r}, expected 8 bits a channel; convert it"
            )
        return image.size, image.mode


def _decoded(source: Source, mode: str, size: tuple[int, int], name_of: Callable[[int], str], position: int) -> Array:
    from PIL import Image

    try:
        with _open(source, name_of, position) as image:
            converted = image.convert(mode)
            if converted.size != size:
                converted = converted.resize(size, Image.Resampling.BILINEAR)
            return np.asarray(converted)
    except _UNREADABLE as error:
        raise _damaged(name_of(position), error) from error


def _open(source: Source, name_of: Callable[[int], str], position: int) -> PillowImage:
    from PIL import Image

    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except (*_UNREADABLE, Image.DecompressionBombError) as error:
        raise _damaged(name_of(position), error) from error


def _damaged(name: str, error: BaseException) -> DataError:
    return DataError(f"image {name} cannot be read: {error}; replace it by a good copy or remove it")


def _words(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"

"""A proxy set from outside: the training inputs of another data set, brought to the form of the private ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fedkd.data.base import Dataset, Samples
from fedkd.data.config import DataConfig
from fedkd.data.images import resized
from fedkd.data.load import load_dataset
from fedkd.errors import DataError
from fedkd.types import Array

_TIME = "t"  # the further input that only tuples of diffusion have
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # grey from red, green, blue (ITU-R BT.601)


def load_external_proxy(config: DataConfig, private: Dataset, *, max_samples: int = 0) -> Samples:
    """Inputs of the training part of another data set, without labels, in the shape and scaling of the private inputs.

    Images are made grey or repeated over three channels, resized (bilinear), and scaled as the private images are: a
    model is to see both through the same eyes. Further inputs (prompts, time steps) that the private data have too come
    along as they are; of tuples of diffusion, which have time steps, none may be missing. The order is the data set's
    own; the same call gives the same samples on every machine.

    Args:
        config: of the other data set; its `validation` and `max_train` play no part.
        private: the data set of the clients.
        max_samples: a fixed draw of so many, the same share of each of its classes; 0 takes all.

    Raises:
        DataError: the inputs cannot be brought to the private shape, further inputs have another, or tuples lack some.
    """
    other = load_dataset(replace(config, validation=0.0, max_train=max_samples))
    x, shape, more = other.train.x, private.input_shape, _more_inputs(other, private)
    if other.scaling is None or private.scaling is None or x.ndim != 4 or len(shape) != 3:
        if x.shape[1:] != shape:
            raise DataError(
                f"the external proxy set {other.name!r} has inputs of shape {x.shape[1:]}, the private data "
                f"{private.name!r} of {shape}, and not both are images that could be converted; choose another set"
            )
        return Samples(x, more=more)
    pixels = resized(_with_channels(other.scaling.undo(x), shape[0], other.name), shape[1:])
    return Samples(private.scaling.apply(pixels.clip(0.0, 1.0)), more=more)


def _more_inputs(other: Dataset, private: Dataset) -> Mapping[str, Array]:
    """Further inputs of the other set that the private data have too, as they are."""
    wanted = private.train.more
    kept = {name: array for name, array in other.train.more.items() if name in wanted}
    missing = sorted(wanted.keys() - kept.keys())
    # A sample of image and text may have one of the two; a denoiser is asked with all of its inputs.
    if missing and _TIME in wanted:
        raise DataError(
            f"the external proxy set {other.name!r} lacks {', '.join(map(repr, missing))}, which samples of the "
            f"private data {private.name!r} have and a diffusion model is asked with; choose a proxy set that has "
            f"{', '.join(map(repr, sorted(wanted)))}, or add what is missing to Samples.more of this one"
        )
    for name, array in kept.items():
        have, want = _form(array), _form(private.train.more[name])
        if have != want:
            raise DataError(
                f"the external proxy set {other.name!r} has {name!r} of shape {have[0]} and type {have[1]}, the "
                f"private data {private.name!r} of {want[0]} and {want[1]}; choose another set"
            )
    return kept


def _form(array: Array) -> tuple[tuple[int, ...], str]:
    return array.shape[1:], str(array.dtype)


def _with_channels(pixels: Array, wanted: int, name: str) -> Array:
    """Pixels (n, wanted, h, w) from pixels (n, c, h, w)."""
    channels = pixels.shape[1]
    if channels == wanted:
        return pixels
    if (channels, wanted) == (1, 3):
        return np.repeat(pixels, 3, axis=1)
    if (channels, wanted) == (3, 1):
        grey: Array = np.einsum("nchw,c->nhw", pixels, _LUMA)[:, None]
        return grey
    raise DataError(
        f"the external proxy set {name!r} has {channels} channels, the private data {wanted}; only 1 and 3 convert"
    )

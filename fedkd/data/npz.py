"""Arrays of your own in one .npz file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from fedkd.data.base import Dataset, ImageSet, Samples
from fedkd.data.config import DataConfig
from fedkd.data.images import centred
from fedkd.data.places import required_root
from fedkd.data.subset import TEST_SHARE, split_off
from fedkd.errors import DataError
from fedkd.types import Array

_EXPECTED = "an .npz file with the arrays x_train, y_train, x_test and y_test, or x and y"
_IMAGES = "(n, h, w), (n, 1, h, w) or (n, 3, h, w)"


def load_npz(config: DataConfig) -> Dataset | ImageSet:
    """Your arrays: `data.root` is an .npz file with x_train, y_train, x_test, y_test, or x and y with a fifth held out.

    Numbers are taken as float32 inputs as they are, bytes (uint8) as images: (n, h, w) or (n, c, h, w), to -1..1.
    Labels are whole numbers from 0. The fifth is drawn from a fixed stream, the same share of each class.
    """
    path = required_root(config, _EXPECTED)
    arrays = _read(path)
    if {"x_train", "y_train", "x_test", "y_test"} <= arrays.keys():
        train = _samples(path, arrays, "x_train", "y_train")
        test = _samples(path, arrays, "x_test", "y_test")
        if train.x.shape[1:] != test.x.shape[1:] or train.x.dtype != test.x.dtype:
            raise DataError(
                f"{path}: x_train holds inputs of shape {train.x.shape[1:]} ({train.x.dtype}), x_test of "
                f"{test.x.shape[1:]} ({test.x.dtype}); bring them to one form"
            )
    elif {"x", "y"} <= arrays.keys():
        whole = _samples(path, arrays, "x", "y")
        kept, held_out = split_off(whole.labels, TEST_SHARE, "test")
        train, test = whole.take(kept), whole.take(held_out)
    else:
        raise DataError(f"{path} has the arrays {', '.join(sorted(arrays)) or 'none'}; make it {_EXPECTED}")
    num_classes = int(max(train.labels.max(), test.labels.max(initial=0))) + 1
    if train.x.dtype != np.uint8:
        return Dataset(name=config.name, train=train, test=test, num_classes=num_classes)
    return ImageSet(
        name=config.name, train=train, test=test, num_classes=num_classes, scaling=centred(train.x.shape[1])
    )


def _samples(path: Path, arrays: dict[str, Array], x_key: str, y_key: str) -> Samples:
    x, y = arrays[x_key], arrays[y_key]
    if x.ndim < 2 or y.ndim != 1 or len(x) != len(y) or not len(x):
        raise DataError(
            f"{path}: {x_key} has shape {x.shape} and {y_key} {y.shape}, expected (n, …) and (n,) with n the same; "
            "correct the arrays"
        )
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
        raise DataError(
            f"{path}: {y_key} is {y.dtype} from {y.min()}, expected whole numbers from 0; number the classes"
        )
    if x.dtype == np.uint8:
        x = x[:, None] if x.ndim == 3 else x
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise DataError(
                f"{path}: {x_key} holds bytes of shape {x.shape}, expected images {_IMAGES}; move the channels to the "
                "second place, or convert inputs of another kind to float32"
            )
    elif not np.issubdtype(x.dtype, np.number) or np.issubdtype(x.dtype, np.complexfloating):
        raise DataError(f"{path}: {x_key} is {x.dtype}, expected numbers; convert it to float32")
    else:
        with np.errstate(over="ignore"):  # what becomes infinite is refused with the other infinite values
            x = x.astype(np.float32, copy=False)
    return Samples(x, y.astype(np.int64, copy=False))


def _read(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as file:  # np.load would leave a damaged file open
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds a bare array")
            with archive:
                arrays = {name: archive[name] for name in archive.files}
        odd = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
        if odd:
            raise ValueError(f"{odd[0]} in it is no array")
        return arrays
    except _UNREADABLE as error:
        raise DataError(f"{path} cannot be read: {error}; make it {_EXPECTED}") from error


# What numpy and zipfile raise at damaged files and at arrays of Python objects, which would need pickle.
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)

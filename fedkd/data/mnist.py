"""MNIST and FashionMNIST from local IDX files, gzipped or not, through torchvision.

torchvision imports torch, and saying hello and filtering must not. So it decodes once: what comes after reads the
cache, without torch. torchvision reads unzipped files only, and the folder of the originals may be read-only: they are
unpacked into the cache, where just the decoded arrays stay.
"""

from __future__ import annotations

import gzip
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedkd.data.base import ImageSet, Samples, Scaling
from fedkd.data.cache import cached, scratch_folder
from fedkd.data.config import DataConfig
from fedkd.data.places import data_root, failed_download, missing
from fedkd.errors import DataError
from fedkd.types import Array

FILES: Mapping[str, str] = {
    "train_x": "train-images-idx3-ubyte",
    "train_y": "train-labels-idx1-ubyte",
    "test_x": "t10k-images-idx3-ubyte",
    "test_y": "t10k-labels-idx1-ubyte",
}
ARTICLES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def load_mnist(config: DataConfig) -> ImageSet:
    """MNIST: 60,000 and 10,000 grey 28x28 digits, from IDX files under `data.root`/MNIST/raw; (x - 0.1307) / 0.3081."""
    return _load(config, "MNIST", Scaling((0.1307,), (0.3081,)), tuple(str(digit) for digit in range(10)))


def load_fashion_mnist(config: DataConfig) -> ImageSet:
    """FashionMNIST: grey 28x28 articles, from IDX files under `data.root`/FashionMNIST/raw; (x - 0.2860) / 0.3530."""
    return _load(config, "FashionMNIST", Scaling((0.2860,), (0.3530,)), ARTICLES)


def _load(config: DataConfig, title: str, scaling: Scaling, class_names: tuple[str, ...]) -> ImageSet:
    root = data_root(config)
    sources = _find(root, title)
    if len(sources) < len(FILES) and config.download:
        _download(config, root, title)
        sources = _find(root, title)
    if len(sources) < len(FILES):
        absent = ", ".join(f"{title}/raw/{name}" for key, name in FILES.items() if key not in sources)
        raise missing(config, root, f"{absent} (or the same with .gz)")
    arrays = cached(title, list(sources.values()), lambda: _decode(sources, len(class_names)))
    train, test = (Samples(arrays[f"{part}_x"], arrays[f"{part}_y"]) for part in ("train", "test"))
    return ImageSet(name=config.name, num_classes=10, scaling=scaling, class_names=class_names, train=train, test=test)


def _find(root: Path, title: str) -> dict[str, Path]:
    """The files that there are, from torchvision's folder or straight from the one above it."""
    found = {}
    for key, name in FILES.items():
        places = [root / title / sub / f"{name}{end}" for sub in ("raw", "") for end in ("", ".gz")]
        path = next((place for place in places if place.is_file()), None)
        if path is not None:
            found[key] = path
    return found


def _download(config: DataConfig, root: Path, title: str) -> None:
    import torchvision.datasets

    try:
        getattr(torchvision.datasets, title)(root, download=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise failed_download(config, root, error) from error


def _decode(sources: Mapping[str, Path], num_classes: int) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for part in ("train", "test"):
        x, y = _read(sources[f"{part}_x"])[:, None], _read(sources[f"{part}_y"]).astype(np.int64)
        if len(x) != len(y) or not len(x):
            raise DataError(
                f"{sources[f'{part}_x']} has {len(x)} images and {sources[f'{part}_y']} {len(y)} labels, expected as "
                "many, and one at least; copy both again"
            )
        if y.max() >= num_classes:
            raise DataError(
                f"{sources[f'{part}_y']} has label {y.max()}, expected 0 to {num_classes - 1}; copy it again"
            )
        arrays |= {f"{part}_x": x, f"{part}_y": y}
    return arrays


def _read(path: Path) -> Array:
    """Images (n, h, w) or labels (n,) of an IDX file."""
    from torchvision.datasets.mnist import read_image_file, read_label_file

    read = read_image_file if "-images-" in path.name else read_label_file
    try:
        with scratch_folder() as folder:
            array: Array = read(_unpacked(path, folder)).numpy()
            return array
    except _UNREADABLE as error:
        why = str(error) or "it is no IDX file of bytes"
        raise DataError(
            f"{path} is damaged or cut short: {why}; copy it again, or delete it and set data.download = true"
        ) from error


# What gzip and torchvision raise at damaged files.
_UNREADABLE = (OSError, EOFError, zlib.error, RuntimeError, ValueError, TypeError, KeyError, IndexError, AssertionError)


def _unpacked(path: Path, folder: Path) -> Path:
    if path.suffix != ".gz":
        return path
    target = folder / path.stem
    with gzip.open(path, "rb") as packed, target.open("wb") as plain:
        shutil.copyfileobj(packed, plain)
    return target

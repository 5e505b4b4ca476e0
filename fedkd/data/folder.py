"""Images in class folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedkd.data.base import ImageSet, Samples
from fedkd.data.cache import cached
from fedkd.data.config import DataConfig
from fedkd.data.images import SUFFIXES, centred, decode_images
from fedkd.data.places import required_root
from fedkd.data.subset import TEST_SHARE, split_off
from fedkd.errors import DataError

_EXPECTED = "a folder with train/<class>/*.png and test/<class>/*.png, or with <class>/*.png (jpg, bmp, … as well)"


def load_folder(config: DataConfig) -> ImageSet:
    """Your images: `data.root`/train/<class>/* and test/<class>/*, or <class>/* with a fifth held out; pixels to -1..1.

    Classes are numbered by name. The fifth is drawn from a fixed stream, the same share of each class. Images differ in
    size only where `data.image_size` is given. Hidden files, and those whose suffix is no image's, are passed by.
    """
    root = required_root(config, _EXPECTED)
    parts = ("train", "test") if (root / "train").is_dir() and (root / "test").is_dir() else ("",)
    classes = _class_names(root / parts[0])
    files = [(part, number, path) for part in parts for number, path in _images(root / part, classes)]
    paths = [path for _, _, path in files]
    arrays = cached(
        "folder",
        paths,
        lambda: {"x": decode_images(paths, image_size=config.image_size, name_of=lambda i: str(paths[i]))},
        options=f"size {config.image_size}",
    )
    whole = Samples(arrays["x"], np.array([number for _, number, _ in files], np.int64))
    if len(parts) == 2:
        in_test = np.array([part == "test" for part, _, _ in files])
        train, test = np.flatnonzero(~in_test), np.flatnonzero(in_test)
    else:
        train, test = split_off(whole.labels, TEST_SHARE, "test")
    return ImageSet(
        name=config.name,
        train=whole.take(train),
        test=whole.take(test),
        num_classes=len(classes),
        class_names=tuple(classes),
        scaling=centred(whole.x.shape[1]),
    )


def _class_names(folder: Path) -> Mapping[str, int]:
    """Class -> number, by the folders' names."""
    if not folder.is_dir():
        raise DataError(f"data.root {folder} is no folder; set it to {_EXPECTED}")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        found = f"the one class folder {names[0]!r}" if names else "no class folder"
        raise DataError(f"{folder} has {found}, expected two or more; set data.root to {_EXPECTED}")
    return {name: number for number, name in enumerate(names)}


def _images(folder: Path, classes: Mapping[str, int]) -> list[tuple[int, Path]]:
    """Class numbers and paths of the images in one part, by class and name."""
    unknown = sorted(set(_class_names(folder)) - set(classes))
    if unknown:
        raise DataError(
            f"{folder} has the class {unknown[0]!r}, which the training data lack; add it there or remove it"
        )
    found = []
    for name, number in classes.items():
        images = sorted(
            path
            for path in (folder / name).rglob("*")
            if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
        )
        if not images and (folder / name).is_dir():
            raise DataError(f"{folder / name} holds no image; add some ({', '.join(sorted(SUFFIXES))}) or remove it")
        found += [(number, path) for path in images]
    return found

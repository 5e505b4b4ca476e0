"""CIFAR-10 from local files: torchvision's own folder, or parquet with a column of encoded images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedkd.data.base import ImageSet, Samples, Scaling
from fedkd.data.cache import cached
from fedkd.data.config import DataConfig
from fedkd.data.parquet import read_images
from fedkd.data.places import data_root, failed_download, missing
from fedkd.errors import DataError
from fedkd.types import Array

BATCHES = "cifar-10-batches-py"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SCALING = Scaling((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def load_cifar10(config: DataConfig) -> ImageSet:
    """CIFAR-10: 50,000 and 10,000 colour 32x32 images under `data.root`, as parquet or as torchvision keeps them.

    torchvision's files are pickles. They are unpickled by torchvision alone, and only where the MD5 of each is that of
    the published file; any other file is refused unread. Parquet needs the extra `parquet`.
    """
    root = data_root(config)
    parquet = _parquet_files(root)
    if config.download and not parquet and not (root / BATCHES).is_dir():
        _from_torchvision(config, root)
    if (root / BATCHES).is_dir():
        arrays = cached("CIFAR10", sorted((root / BATCHES).iterdir()), lambda: _from_torchvision(config, root))
    elif parquet:
        arrays = cached("CIFAR10", [*parquet["train"], *parquet["test"]], lambda: _from_parquet(parquet))
    else:
        raise missing(config, root, f"the folder {BATCHES}, or CIFAR10/train.parquet and CIFAR10/test.parquet")
    train, test = (Samples(arrays[f"{part}_x"], arrays[f"{part}_y"]) for part in ("train", "test"))
    return ImageSet(name=config.name, train=train, test=test, num_classes=10, scaling=SCALING, class_names=CLASSES)


def _parquet_files(root: Path) -> Mapping[str, list[Path]]:
    found = {part: sorted((root / "CIFAR10").glob(f"{part}*.parquet")) for part in ("train", "test")}
    return found if all(found.values()) else {}


def _from_parquet(files: Mapping[str, list[Path]]) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for part, paths in files.items():
        x, y = read_images(paths, image_columns=("img", "image"), label_column="label")
        if x.shape[1:] != (3, 32, 32) or not np.isin(y, np.arange(10)).all():
            raise DataError(
                f"{paths[0]} holds images of shape {x.shape[1:]} with labels {y.min()} to {y.max()}, expected "
                "(3, 32, 32) and 0 to 9; it is not CIFAR-10, replace it"
            )
        arrays |= {f"{part}_x": x, f"{part}_y": y}
    return arrays


def _from_torchvision(config: DataConfig, root: Path) -> dict[str, Array]:
    import torchvision.datasets

    arrays: dict[str, Array] = {}
    try:
        for part in ("train", "test"):
            found = torchvision.datasets.CIFAR10(root, train=part == "train", download=config.download)
            arrays[f"{part}_x"] = found.data.transpose(0, 3, 1, 2)
            arrays[f"{part}_y"] = np.array(found.targets, np.int64)
    except (OSError, RuntimeError) as error:
        if config.download:
            raise failed_download(config, root, error) from error
        raise DataError(
            f"{root / BATCHES} is not the published CIFAR-10: {error}. Its files are pickles, so fedkd reads them only "
            "where their checksums agree; delete the folder and unpack cifar-10-python.tar.gz again, use parquet files "
            "in CIFAR10/, or set data.download = true"
        ) from error
    return arrays

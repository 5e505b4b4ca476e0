"""Image data sets of the Hugging Face hub, or parquet files as the hub keeps them, through `datasets`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedkd.data.base import ImageSet, Samples
from fedkd.data.cache import cached, scratch_folder
from fedkd.data.config import DataConfig
from fedkd.data.images import centred, decode_images
from fedkd.data.places import failed_download, required_root
from fedkd.data.subset import TEST_SHARE, split_off
from fedkd.errors import ConfigError, DataError
from fedkd.extras import need
from fedkd.types import Array

_EXPECTED = "a folder with train*.parquet (and test*.parquet), or with such files in its folder data/"
_IMAGES, _LABELS = ("image", "img"), ("label", "labels", "class")


def load_hub(config: DataConfig) -> ImageSet:
    """A hub data set of images: `data.hub_name`, or parquet files under `data.root`; pixels to -1..1; extra `hub`.

    A name is fetched once, with `data.download` = true; what comes after reads the decoded arrays from the cache,
    without network. Where there is no test part, a fifth is held out: a fixed draw, the same share of each class.
    """
    columns = (config.image_column, config.label_column)
    options = f"size {config.image_size}, columns {columns}, name {config.hub_name!r}"
    files = {} if config.hub_name else _parquet_files(config)
    sources = [path for paths in files.values() for path in paths]
    arrays = cached("hub", sources, lambda: _decode(config, files), options=options)
    train, test = (Samples(arrays[f"{part}_x"], arrays[f"{part}_y"]) for part in ("train", "test"))
    names = tuple(map(str, arrays["classes"]))
    return ImageSet(
        name=config.name,
        num_classes=len(names),
        class_names=names,
        scaling=centred(train.x.shape[1]),
        train=train,
        test=test,
    )


def _parquet_files(config: DataConfig) -> Mapping[str, Sequence[Path]]:
    if not config.root:
        raise ConfigError(
            "data.hub_name is '', and so is data.root; name a data set of the hub, such as 'ylecun/mnist', or "
            f"set data.root to {_EXPECTED}",
            key="data.hub_name",
        )
    root = required_root(config, _EXPECTED)
    found = {part: sorted([*root.glob(f"{part}*.parquet"), *root.glob(f"data/{part}*.parquet")]) for part in _PARTS}
    if not found["train"]:
        raise DataError(f"{root} holds no train*.parquet; set data.root to {_EXPECTED}")
    return {part: paths for part, paths in found.items() if paths}


_PARTS = ("train", "test")


def _decode(config: DataConfig, files: Mapping[str, Sequence[Path]]) -> dict[str, Array]:
    datasets = need("datasets", extra="hub", what="data.name 'hub'")
    with scratch_folder() as folder:
        splits = _fetched(datasets, config) if config.hub_name else _local(datasets, files, folder)
        what = config.hub_name or config.root
        if "train" not in splits:
            raise DataError(f"{what} has the parts {', '.join(splits)}, expected 'train' and 'test'; choose another")
        parts = [part for part in _PARTS if part in splits]
        image_column, label_column = _columns(datasets, splits["train"].features, config, what)
        blobs: list[bytes | Path] = []
        labels: list[Array] = []
        rows: list[str] = []
        for part in parts:
            table = splits[part].cast_column(image_column, datasets.Image(decode=False))
            found = table[image_column][:]
            blobs += [Path(image["path"]) if image["bytes"] is None else image["bytes"] for image in found]
            rows += [f"in row {row} of {what}, {part}" for row in range(len(found))]
            labels.append(np.array(table[label_column][:]))
        x = decode_images(blobs, image_size=config.image_size, name_of=rows.__getitem__)
    y, classes = _numbered(np.concatenate(labels), splits["train"].features[label_column], label_column, what)
    first = np.arange(len(labels[0]))
    train, test = (first, np.arange(len(first), len(y))) if len(parts) == 2 else split_off(y, TEST_SHARE, "test")
    return {"train_x": x[train], "train_y": y[train], "test_x": x[test], "test_y": y[test], "classes": classes}


def _fetched(datasets: Any, config: DataConfig) -> Any:
    if not config.download:
        raise DataError(
            f"data set {config.hub_name!r} is not in the cache yet; set data.download = true to fetch it from the hub"
        )
    try:
        return datasets.load_dataset(config.hub_name)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise failed_download(config, Path(datasets.config.HF_DATASETS_CACHE), error) from error


def _local(datasets: Any, files: Mapping[str, Sequence[Path]], folder: Path) -> Any:
    names = {part: [str(path) for path in paths] for part, paths in files.items()}
    try:
        return datasets.load_dataset("parquet", data_files=names, cache_dir=str(folder))
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{', '.join(name for paths in names.values() for name in paths)} cannot be read: {error}: "
            f"{error.__cause__ or 'no other cause is known'}; copy the files again"
        ) from error


def _columns(datasets: Any, features: Any, config: DataConfig, what: str) -> tuple[str, str]:
    """Names of the columns of images and of classes."""
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image) or _is_encoded(kind)]
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    labels = labels or [name for name in _LABELS if name in features]
    chosen = []
    for key, given, found in (("image", config.image_column, images), ("label", config.label_column, labels)):
        if given and given not in features:
            raise ConfigError(
                f"data.{key}_column is {given!r}, but {what} has {', '.join(features)}", key=f"data.{key}_column"
            )
        preferred = [name for name in found if name in _IMAGES] if key == "image" else found
        candidates = [given] if given else preferred if len(preferred) == 1 else found
        if len(candidates) != 1:
            raise DataError(
                f"{what} has {len(candidates)} columns that may hold the {key}s, among {', '.join(features)}; name one "
                f"with data.{key}_column"
            )
        chosen.append(candidates[0])
    return chosen[0], chosen[1]


def _is_encoded(kind: Any) -> bool:
    """Images of a file whose metadata do not call them so: a struct of bytes and path."""
    return isinstance(kind, Mapping) and set(kind) == {"bytes", "path"}


def _numbered(labels: Array, kind: Any, column: str, what: str) -> tuple[Array, Array]:
    """Labels as numbers from 0, and the names of the classes."""
    if labels.dtype.kind == "U":
        names, numbers = np.unique(labels, return_inverse=True)
        return numbers.astype(np.int64), names
    if labels.dtype.kind not in "iu" or labels.min() < 0:
        raise DataError(
            f"{what}: column {column!r} holds {labels.dtype}, expected numbers from 0 or names, and none missing; name "
            "another with data.label_column"
        )
    given = getattr(kind, "names", None) or [str(number) for number in range(labels.max() + 1)]
    return labels.astype(np.int64), np.array(given)

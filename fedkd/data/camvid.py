"""CamVid: road scenes with a class for each pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedkd.data.base import IGNORE, ImageSet, Samples, Scaling
from fedkd.data.cache import cached
from fedkd.data.config import DataConfig
from fedkd.data.parquet import read_masks
from fedkd.data.places import data_root, missing
from fedkd.errors import DataError
from fedkd.types import Array, Ids

CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "vehicle",
    "pedestrian",
    "bicyclist",
)
VOID = 11
SCALING = Scaling((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # ImageNet's, as pretrained encoders expect


def load_camvid(config: DataConfig) -> ImageSet:
    """CamVid in the SegNet split (367 training, 101 validation, 233 test images) from CamVid/*.parquet.

    Eleven classes; void pixels become IGNORE. Groups are the most frequent class of an image besides road, building and
    sky, which lead almost everywhere: what partitions deal out. The validation part is left alone; needs the extra
    `parquet`.
    """
    root = data_root(config)
    files = {part: root / "CamVid" / f"{part}.parquet" for part in ("train", "test")}
    if not all(path.is_file() for path in files.values()):
        raise missing(config, root, "CamVid/train.parquet and CamVid/test.parquet", can_fetch=False)
    arrays = cached("CamVid", list(files.values()), lambda: _decoded(files))
    train, test = (_samples(arrays[f"{part}_x"], arrays[f"{part}_y"]) for part in files)
    return ImageSet(
        name=config.name,
        train=train,
        test=test,
        num_classes=len(CLASSES),
        scaling=SCALING,
        class_names=CLASSES,
        num_groups=len(CLASSES),
    )


def dominant_class(masks: Array, *, num_classes: int, without: tuple[int, ...] = ()) -> Ids:
    """The most frequent class (n,) of maps (n, h, w), IGNORE and the classes `without` aside; 0 where none is left."""
    counts = np.stack([(masks == label).sum(axis=(1, 2)) for label in range(num_classes)], axis=1)
    counts[:, list(without)] = 0
    dominant: Ids = counts.argmax(axis=1).astype(np.int64)
    return dominant


def _decoded(files: dict[str, Path]) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for part, path in files.items():
        x, y = read_masks([path], image_column="image", mask_column="annotation")
        if y.max() > VOID:
            raise DataError(f"{path} holds class {y.max()}, expected 0 to {VOID} (void); it is not CamVid, replace it")
        arrays |= {f"{part}_x": x, f"{part}_y": y}
    return arrays


def _samples(x: Array, y: Array) -> Samples:
    masks = np.where(y == VOID, np.int64(IGNORE), y.astype(np.int64))
    common = tuple(CLASSES.index(name) for name in ("sky", "building", "road"))
    return Samples(x, masks, groups=dominant_class(masks, num_classes=len(CLASSES), without=common))

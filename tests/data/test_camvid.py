import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedkd.data.base import IGNORE, Dataset
from fedkd.data.camvid import CLASSES, VOID, dominant_class
from fedkd.data.config import DataConfig
from fedkd.data.load import load_dataset
from fedkd.errors import DataError


def png(array: np.ndarray) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def write(root: Path, masks: list[np.ndarray], images: list[np.ndarray]) -> None:
    pa = pytest.importorskip("pyarrow", reason="reading parquet needs the extra 'parquet'")
    import pyarrow.parquet as parquet

    (root / "CamVid").mkdir(exist_ok=True)
    table = pa.table({"image": [png(image) for image in images], "annotation": [png(mask) for mask in masks]})
    for part in ("train", "test"):
        parquet.write_table(table, root / "CamVid" / f"{part}.parquet")


def load(root: Path) -> Dataset:
    return load_dataset(DataConfig(name="camvid", root=str(root)))


MASK = np.full((4, 6), CLASSES.index("road"), np.uint8)
IMAGE = np.full((4, 6, 3), 128, np.uint8)


def test_void_is_ignored_and_images_are_grouped(tmp_path: Path) -> None:
    mask = MASK.copy()
    mask[0, :2], mask[1, :3] = VOID, CLASSES.index("tree")
    write(tmp_path, [mask, MASK], [IMAGE, IMAGE])
    data = load(tmp_path)
    assert (data.train.x.shape, data.train.labels.shape) == ((2, 3, 4, 6), (2, 4, 6))
    assert (data.train.labels[0, 0, :2] == IGNORE).all()
    assert data.train.labels.max() == CLASSES.index("tree")
    assert data.train.groups is not None
    assert data.train.groups.tolist() == [CLASSES.index("tree"), 0]
    assert data.num_strata == len(CLASSES)


def test_the_dominant_class_by_hand() -> None:
    masks = np.array([[[1, 1, 2]], [[2, 2, IGNORE]], [[1, 1, 1]]])
    assert dominant_class(masks, num_classes=3).tolist() == [1, 2, 1]
    assert dominant_class(masks, num_classes=3, without=(1,)).tolist() == [2, 2, 0]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (MASK[:2], "images are .* their masks"),
        (np.full((4, 6), VOID + 1, np.uint8), "holds class 12, expected 0 to 11"),
        (IMAGE, "mask in row 0 .* mode 'RGB', expected one class number a pixel"),
    ],
)
def test_masks_that_cannot_be_are_refused(tmp_path: Path, mask: np.ndarray, message: str) -> None:
    write(tmp_path, [mask], [IMAGE])
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected CamVid/train.parquet and CamVid/test.parquet; put the files there"):
        load(tmp_path)

"""Images and labels from parquet files as the Hugging Face hub keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedkd.data.images import decode_images, decode_masks
from fedkd.errors import DataError
from fedkd.extras import need
from fedkd.types import Array


def read_images(paths: Sequence[Path], *, image_columns: Sequence[str], label_column: str) -> tuple[Array, Array]:
    """Pixels (n, c, h, w) uint8 and labels (n,) of the files one after another.

    Args:
        image_columns: names of the column of encoded images, bytes or structs with `bytes`; the first that is there.

    Raises:
        MissingExtraError: pyarrow is not installed.
        DataError: a file or an image is damaged, or a column is missing; it names the file.
    """
    need("pyarrow", extra="parquet", what="reading parquet files")
    blobs: list[bytes] = []
    names: list[str] = []
    labels: list[Array] = []
    for path in paths:
        images, classes = _columns(path, image_columns, label_column)
        blobs += images
        names += [f"in row {row} of {path}" for row in range(len(images))]
        labels.append(classes)
    if not blobs:
        raise DataError(f"{paths[0]} holds no row; replace it by a good copy")
    return decode_images(blobs, image_size=0, name_of=names.__getitem__), np.concatenate(labels)


def read_masks(paths: Sequence[Path], *, image_column: str, mask_column: str) -> tuple[Array, Array]:
    """Pixels (n, c, h, w) uint8 and class maps (n, h, w) uint8 of the files one after another.

    Raises: as `read_images`; also where image and mask differ in size.
    """
    blobs: list[bytes] = []
    masks: list[bytes] = []
    names: list[str] = []
    for path in paths:
        table = _table(path, {image_column: (image_column,), mask_column: (mask_column,)})
        blobs += _encoded(path, image_column, table[image_column].to_pylist())
        masks += _encoded(path, mask_column, table[mask_column].to_pylist())
        names += [f"in row {row} of {path}" for row in range(len(table))]
    if not blobs:
        raise DataError(f"{paths[0]} holds no row; replace it by a good copy")
    x = decode_images(blobs, image_size=0, name_of=names.__getitem__)
    y = decode_masks(masks, name_of=names.__getitem__)
    if x.shape[2:] != y.shape[1:]:
        raise DataError(f"{paths[0]}: images are {x.shape[2:]}, their masks {y.shape[1:]}; both need one size")
    return x, y


def _columns(path: Path, image_columns: Sequence[str], label_column: str) -> tuple[list[bytes], Array]:
    table = _table(path, {" or ".join(image_columns): image_columns, label_column: (label_column,)})
    image_column = next(name for name in image_columns if name in table.column_names)
    labels: Array = table[label_column].to_numpy()
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{path}: column {label_column!r} holds {labels.dtype}, expected whole numbers; number the classes"
        )
    return _encoded(path, image_column, table[image_column].to_pylist()), labels.astype(np.int64)


def _table(path: Path, wanted: Mapping[str, Sequence[str]]) -> Any:
    """The first column that is there of each of the `wanted` alternatives (what messages call them -> names)."""
    pyarrow = need("pyarrow", extra="parquet", what="reading parquet files")
    parquet = need("pyarrow.parquet", extra="parquet", what="reading parquet files")
    try:
        names = parquet.read_schema(path).names
        found = [next((name for name in either if name in names), "") for either in wanted.values()]
        if not all(found):
            raise DataError(
                f"{path} has the columns {', '.join(names)}, expected {', and '.join(wanted)}; rename its columns"
            )
        return parquet.read_table(path, columns=found, partitioning=None)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} is no parquet file that can be read: {error}; copy it again") from error


def _encoded(path: Path, column: str, images: Sequence[Any]) -> list[bytes]:
    """The bytes of encoded images, plain or in structs; DataError where one holds none."""
    encoded: list[Any] = [image.get("bytes") if isinstance(image, dict) else image for image in images]
    odd = next((row for row, image in enumerate(encoded) if not isinstance(image, bytes)), None)
    if odd is not None:
        raise DataError(f"{path}, row {odd}: column {column!r} holds no encoded image; expected its bytes")
    return encoded

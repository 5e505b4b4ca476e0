"""Images and labels from parquet files as the Hugging Face hub keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedkd.data.images import decode_images
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


def _columns(path: Path, image_columns: Sequence[str], label_column: str) -> tuple[list[bytes], Array]:
    pyarrow = need("pyarrow", extra="parquet", what="reading parquet files")
    parquet = need("pyarrow.parquet", extra="parquet", what="reading parquet files")
    try:
        schema = parquet.read_schema(path)
        image_column = next((name for name in image_columns if name in schema.names), "")
        if not image_column or label_column not in schema.names:
            raise DataError(
                f"{path} has the columns {', '.join(schema.names)}, expected {' or '.join(image_columns)}, and "
                f"{label_column}; rename its columns"
            )
        table = parquet.read_table(path, columns=[image_column, label_column], partitioning=None)
        images, labels = table[image_column].to_pylist(), table[label_column].to_numpy()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} is no parquet file that can be read: {error}; copy it again") from error
    encoded: list[Any] = [image.get("bytes") if isinstance(image, dict) else image for image in images]
    odd = next((row for row, image in enumerate(encoded) if not isinstance(image, bytes)), None)
    if odd is not None:
        raise DataError(f"{path}, row {odd}: column {image_column!r} holds no encoded image; expected its bytes")
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{path}: column {label_column!r} holds {labels.dtype}, expected whole numbers; number the classes"
        )
    return encoded, labels.astype(np.int64)

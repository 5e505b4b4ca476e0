import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkd.data.base import Dataset
from fedkd.data.config import DataConfig
from fedkd.data.load import load_dataset
from fedkd.errors import DataError

X, Y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30) % 3


def load(path: Path) -> Dataset:
    return load_dataset(DataConfig(name="npz", root=str(path)))


def save(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "own.npz", **arrays)
    return folder / "own.npz"


def test_parts_of_their_own(tmp_path: Path) -> None:
    data = load(save(tmp_path, x_train=X, y_train=Y.astype(np.uint8), x_test=X[:6], y_test=Y[:6], extra=X))
    np.testing.assert_array_equal(data.train.x, X.astype(np.float32))
    assert (data.train.x.dtype, data.train.labels.dtype, data.num_classes, len(data.test)) == (
        np.float32,
        np.int64,
        3,
        6,
    )


def test_a_fifth_is_held_out(tmp_path: Path) -> None:
    data = load(save(tmp_path, x=X, y=Y))
    assert np.bincount(data.test.labels).tolist() == [2, 2, 2]
    rows = {bytes(row) for part in (data.train, data.test) for row in part.x}
    assert rows == {bytes(row) for row in X.astype(np.float32)}


@pytest.mark.parametrize("shape", [(30, 5, 6), (30, 1, 5, 6), (30, 3, 5, 6)])
def test_bytes_are_images(tmp_path: Path, shape: tuple[int, ...]) -> None:
    data = load(save(tmp_path, x=np.full(shape, 255, np.uint8), y=Y))
    assert data.input_shape == (3 if shape[1] == 3 else 1, 5, 6)
    assert (data.train.x == 1.0).all()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.where(np.arange(30)[:, None] == 7, np.nan, X), "y": Y}, "1 of .* inputs hold NaN or infinite"),
        ({"x": X * 1e300, "y": Y}, "inputs hold NaN or infinite"),
        ({"x": X, "y": Y + 0.5}, "y is float64 from 0.5, expected whole numbers"),
        ({"x": X, "y": Y - 1}, "y is int64 from -1, expected whole numbers from 0"),
        ({"x": X, "y": Y[:20]}, r"x has shape \(30, 4\) and y \(20,\)"),
        ({"x": X[:, 0], "y": Y}, r"x has shape \(30,\)"),
        ({"x": X[:0], "y": Y[:0]}, r"x has shape \(0, 4\)"),
        ({"x": X.astype(str), "y": Y}, "x is <U.*, expected numbers"),
        ({"x": np.zeros((30, 5, 6, 3), np.uint8), "y": Y}, r"bytes of shape \(30, 5, 6, 3\), expected images"),
        ({"x": X}, "has the arrays x; make it an .npz file with"),
        ({"x_train": X, "y_train": Y, "x_test": X[:, :2], "y_test": Y}, r"of shape \(4,\) .* x_test of \(2,\)"),
        ({"x": np.array([{}] * 30, object), "y": Y}, "cannot be read: Object arrays"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        load(save(tmp_path, **arrays))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = save(tmp_path, x=X, y=Y)
    good = path.read_bytes()
    np.save(tmp_path / "bare.npy", X)
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("x.npy", b"no array")
    for data in (good[:300], b"", b"text", good[:200] + bytes([good[200] ^ 1]) + good[201:]):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"own\.npz cannot be read: .+; make it an \.npz file"):
            load(path)
    for name in ("bare.npy", "other.npz"):
        with pytest.raises(DataError, match=f"{name} cannot be read"):
            load(tmp_path / name)
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"absent\.npz does not exist"):
        load(tmp_path / "absent.npz")
    with pytest.raises(DataError, match=r"set data\.root to an \.npz file with"):
        load_dataset(DataConfig(name="npz"))

import hashlib
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkd.data.base import Dataset
from fedkd.data.config import DataConfig
from fedkd.data.load import load_dataset
from fedkd.errors import DataError, MissingExtraError
from fedkd.types import Array

Encode = Any
COLOURS = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
LABELS = np.arange(20) % 10


def load(root: Path, **options: Any) -> Dataset:
    return load_dataset(DataConfig(name="cifar10", root=str(root), **options))


def write(path: Path, images: list[Any], labels: Any, *, column: str = "img") -> None:
    pa = pytest.importorskip("pyarrow", reason="reading parquet needs the extra 'parquet'")
    import pyarrow.parquet as parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({column: images, "label": labels}), path)


@pytest.fixture
def encoded(encode: Encode) -> list[dict[str, Any]]:
    return [{"bytes": encode(image), "path": None} for image in COLOURS]


@pytest.fixture
def root(tmp_path: Path, encoded: list[Any]) -> Path:
    """Twelve images for training, in two files, and eight for testing."""
    folder = tmp_path / "data" / "CIFAR10"
    write(folder / "train-00000-of-00002.parquet", encoded[:5], LABELS[:5])
    write(folder / "train-00001-of-00002.parquet", encoded[5:12], LABELS[5:12])
    write(folder / "test.parquet", encoded[12:], LABELS[12:])
    return tmp_path / "data"


def assert_colours(data: Dataset) -> None:
    mean, sd = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2470, 0.2435, 0.2616])
    expected = ((COLOURS / 255 - mean) / sd).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(data.train.x, expected[:12], atol=1e-5)
    np.testing.assert_allclose(data.test.x, expected[12:], atol=1e-5)
    np.testing.assert_array_equal(np.concatenate([data.train.labels, data.test.labels]), LABELS)
    assert (data.input_shape, data.num_classes, data.class_names[3]) == ((3, 32, 32), 10, "cat")


def test_parquet_is_decoded_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_colours(load(root))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert_colours(load(root))


def test_plain_bytes_under_another_name_do_as_well(tmp_path: Path, encoded: list[Any]) -> None:
    for part, at in (("train", slice(12)), ("test", slice(12, None))):
        images = [image["bytes"] for image in encoded[at]]
        write(tmp_path / "CIFAR10" / f"{part}.parquet", images, LABELS[at], column="image")
    assert_colours(load(tmp_path))


def test_without_pyarrow_the_extra_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"reading parquet files needs 'pyarrow'.*'fedkd\[parquet\]'"):
        load(root)


def test_damaged_parquet_is_named(root: Path) -> None:
    path = root / "CIFAR10" / "train-00001-of-00002.parquet"
    good = path.read_bytes()
    middle = len(good) // 2
    for data in (good[:middle], b"", b"PAR1 hello PAR1"):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"train-00001-of-00002\.parquet is no parquet file that can be read: "):
            load(root)


def test_a_damaged_image_is_named_by_its_row(tmp_path: Path, root: Path, encoded: list[Any]) -> None:
    path = root / "CIFAR10" / "test.parquet"
    encoded[14]["bytes"] = encoded[14]["bytes"][:50]
    write(path, encoded[12:], LABELS[12:])
    with pytest.raises(DataError, match=r"image in row 2 of .*test\.parquet cannot be read"):
        load(root)
    encoded[14]["bytes"] = None
    write(path, encoded[12:], LABELS[12:])
    with pytest.raises(DataError, match=r"test\.parquet, row 2: column 'img' holds no encoded image"):
        load(root)


def test_other_content_is_refused(root: Path, encode: Encode, encoded: list[Any]) -> None:
    path = root / "CIFAR10" / "test.parquet"
    write(path, encoded[12:], LABELS[12:] + 5)
    with pytest.raises(DataError, match=r"labels \d+ to 14, expected \(3, 32, 32\) and 0 to 9; it is not CIFAR-10"):
        load(root)
    write(path, [encode(image[:28, :28]) for image in COLOURS], LABELS)
    with pytest.raises(DataError, match=r"images of shape \(3, 28, 28\)"):
        load(root)
    write(path, encoded[12:], [str(label) for label in LABELS[12:]])
    with pytest.raises(DataError, match=r"column 'label' holds object, expected whole numbers"):
        load(root)
    write(path, encoded[12:], LABELS[12:], column="picture")
    with pytest.raises(DataError, match=r"has the columns picture, label, expected img or image, and label"):
        load(root)
    write(path, encoded[:0], LABELS[:0])
    with pytest.raises(DataError, match=r"test\.parquet"):
        load(root)


def test_missing_data_say_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"'cifar10' is not in .*: expected the folder cifar-10-batches-py, or CIFAR10/tr"
    ):
        load(tmp_path)


class Bomb:
    """What a forged file may hold: unpickling it runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


def write_batches(folder: Path, monkeypatch: pytest.MonkeyPatch, *, trusted: bool) -> None:
    """torchvision's folder with few images; `trusted` makes their checksums the published ones."""
    from torchvision.datasets import CIFAR10

    folder.mkdir(parents=True)
    flat: Array = COLOURS.transpose(0, 3, 1, 2).reshape(20, -1)
    parts = {f"data_batch_{i + 1}": slice(i * 12 // 5, (i + 1) * 12 // 5) for i in range(5)}
    sums = {}
    for name, at in {**parts, "test_batch": slice(12, None)}.items():
        content = {"data": flat[at], "labels": LABELS[at].tolist()} if trusted else Bomb()
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["x"] * 10}))
    if trusted:
        meta = hashlib.md5((folder / "batches.meta").read_bytes()).hexdigest()
        monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in parts])
        monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
        monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": meta})


def test_torchvisions_folder_is_read_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_batches(tmp_path / "cifar-10-batches-py", monkeypatch, trusted=True)
    for _ in range(2):
        assert_colours(load(tmp_path))


def test_a_folder_with_other_checksums_is_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_batches(tmp_path / "cifar-10-batches-py", monkeypatch, trusted=False)
    with pytest.raises(
        DataError, match=r"is not the published CIFAR-10: .*fedkd reads them only where their checksums"
    ):
        load(tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_downloading_is_torchvisions_affair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    calls: list[str] = []

    def fetch(self: CIFAR10) -> None:
        if not calls:
            write_batches(Path(self.root) / "cifar-10-batches-py", monkeypatch, trusted=True)
        calls.append(str(self.root))

    monkeypatch.setattr(CIFAR10, "download", fetch)
    with pytest.raises(DataError, match="is not in"):
        load(tmp_path / "mine")
    assert calls == []
    assert_colours(load(tmp_path / "mine", download=True))
    assert set(calls) == {str(tmp_path / "mine")}

    def fail(self: CIFAR10) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(CIFAR10, "download", fail)
    with pytest.raises(DataError, match=r"'cifar10' could not be downloaded to .*other: no route to host"):
        load(tmp_path / "other", download=True)

import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkd.data.config import DataConfig
from fedkd.data.load import load_dataset
from fedkd.errors import DataError
from fedkd.types import Array

Images = Callable[..., tuple[Array, Array]]
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("sub", ["raw", ""])
def test_the_files_are_read_from_where_they_are(write_mnist: Any, images: Images, packed: bool, sub: str) -> None:
    root = write_mnist(packed=packed, sub=sub)
    before = snapshot(root)
    for _ in range(2):  # decoded, then cached
        data = load_dataset(DataConfig(name="mnist", root=str(root)))
        pixels, labels = images(30, seed=1)
        assert (data.name, data.num_classes, data.input_shape) == ("mnist", 10, (1, 28, 28))
        assert data.class_names == tuple("0123456789")
        assert (data.train.x.dtype, data.train.labels.dtype) == (np.float32, np.int64)
        expected = (pixels[:, None] / 255 - 0.1307) / 0.3081
        np.testing.assert_allclose(data.train.x, expected, atol=1e-6)
        np.testing.assert_array_equal(data.train.labels, labels)
        np.testing.assert_array_equal(data.test.labels, images(20, seed=2)[1])
    assert snapshot(root) == before  # nothing is unpacked beside the originals


def test_fashion_mnist_has_files_names_and_scaling_of_its_own(write_mnist: Any, images: Images) -> None:
    root = write_mnist("FashionMNIST")
    data = load_dataset(DataConfig(name="fashion_mnist", root=str(root)))
    np.testing.assert_allclose(data.train.x, (images(30, seed=1)[0][:, None] / 255 - 0.2860) / 0.3530, atol=1e-6)
    assert data.class_names[9] == "Ankle boot"
    with pytest.raises(DataError, match=r"'mnist' is not in"):
        load_dataset(DataConfig(name="mnist", root=str(root)))


def test_nothing_unpacked_stays_in_the_cache(write_mnist: Any, own_cache: Path) -> None:
    load_dataset(DataConfig(name="mnist", root=str(write_mnist())))
    assert {path.suffix for path in own_cache.rglob("*") if path.is_file()} == {".npy", ".json"}
    assert [path.name for path in own_cache.iterdir()] == ["arrays"]


def test_the_second_process_needs_no_torch(write_mnist: Any) -> None:
    root = write_mnist()
    code = (
        "import sys; from fedkd.data.config import DataConfig; from fedkd.data.load import load_dataset; "
        "print(load_dataset(DataConfig(name='mnist', root=sys.argv[1])).train.x.shape, "
        "sorted({'torch', 'torchvision', 'PIL'} & set(sys.modules)))"
    )
    load_dataset(DataConfig(name="mnist", root=str(root)))
    out = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True).stdout
    assert out == "(30, 1, 28, 28) []\n"


def test_the_originals_may_be_changed(write_mnist: Any) -> None:
    root = write_mnist(packed=False)
    load_dataset(DataConfig(name="mnist", root=str(root)))
    path = root / "MNIST" / "raw" / TRAIN_IMAGES
    path.write_bytes(path.read_bytes()[:16] + bytes(30 * 28 * 28))
    os.utime(path, ns=(5, 5))
    data = load_dataset(DataConfig(name="mnist", root=str(root)))
    np.testing.assert_allclose(data.train.x, -0.1307 / 0.3081, atol=1e-6)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def garble(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(byte ^ 0xFF for byte in data[middle : middle + 20]) + data[middle + 20 :]


@pytest.mark.parametrize("name", [TRAIN_IMAGES, TRAIN_LABELS, "t10k-images-idx3-ubyte"])
@pytest.mark.parametrize("damage", [cut, garble, lambda _: b"", lambda _: b"hello", lambda data: data[:-4]])
def test_a_damaged_gzip_is_named(write_mnist: Any, name: str, damage: Callable[[bytes], bytes]) -> None:
    root = write_mnist()
    path = root / "MNIST" / "raw" / f"{name}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"{name}\.gz is damaged or cut short: .+; copy it again"):
        load_dataset(DataConfig(name="mnist", root=str(root)))


@pytest.mark.parametrize(
    "damage", [cut, lambda _: b"", lambda _: b"hello, I am a text", lambda d: b"\0\0\x0d" + d[3:], lambda d: d + b"\0"]
)
def test_a_damaged_plain_file_is_named(write_mnist: Any, damage: Callable[[bytes], bytes]) -> None:
    root = write_mnist(packed=False)
    path = root / "MNIST" / "raw" / TRAIN_IMAGES
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"{TRAIN_IMAGES} is damaged or cut short: .+; copy it again"):
        load_dataset(DataConfig(name="mnist", root=str(root)))


def test_images_and_labels_must_fit(write_mnist: Any, images: Images, to_idx: Callable[[Array], bytes]) -> None:
    root = write_mnist()
    path = root / "MNIST" / "raw" / f"{TRAIN_LABELS}.gz"
    path.write_bytes(gzip.compress(to_idx(images(29, seed=1)[1])))
    with pytest.raises(DataError, match=r"has 30 images and .*train-labels.* 29 labels"):
        load_dataset(DataConfig(name="mnist", root=str(root)))
    path.write_bytes(gzip.compress(to_idx(np.full(30, 10, np.uint8))))
    with pytest.raises(DataError, match=r"train-labels.* has label 10, expected 0 to 9"):
        load_dataset(DataConfig(name="mnist", root=str(root)))


def test_missing_data_say_what_to_put_where(write_mnist: Any, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"'mnist' is not in .*/nowhere: expected MNIST/raw/train-images.*data\.root.*dow"
    ):
        load_dataset(DataConfig(name="mnist", root=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match=r"'fashion_mnist' is not in .*/cache/datasets: expected FashionMNIST/raw/"):
        load_dataset(DataConfig(name="fashion_mnist"))
    root = write_mnist()
    (root / "MNIST" / "raw" / f"{TRAIN_LABELS}.gz").unlink()
    with pytest.raises(DataError, match=rf"expected MNIST/raw/{TRAIN_LABELS} \(or the same with \.gz\)"):
        load_dataset(DataConfig(name="mnist", root=str(root)))


@pytest.mark.parametrize("given", [True, False])
def test_a_download_goes_to_the_root_or_the_cache(
    write_mnist: Any, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    import torchvision.datasets

    fetched: list[Path] = []

    def fetch(root: Path, *, download: bool) -> None:
        assert download
        fetched.append(root)
        write_mnist(root=root, packed=False)

    monkeypatch.setattr(torchvision.datasets, "MNIST", fetch)
    root = str(tmp_path / "mine") if given else ""
    for _ in range(2):
        assert len(load_dataset(DataConfig(name="mnist", root=root, download=True)).train) == 30
    assert fetched == [tmp_path / "mine" if given else own_cache / "datasets"]
    assert len(load_dataset(DataConfig(name="mnist", root=root)).train) == 30  # found without being told again


def test_a_failed_download_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    def fail(root: Path, *, download: bool) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(torchvision.datasets, "MNIST", fail)
    with pytest.raises(
        DataError, match=r"'mnist' could not be downloaded to .*mine: Error downloading .*put the files"
    ):
        load_dataset(DataConfig(name="mnist", root=str(tmp_path / "mine"), download=True))

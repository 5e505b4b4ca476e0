"""The real data sets, where they are: $FEDKD_TEST_DATA, or shared/data beside the checkout. Skipped elsewhere."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkd.data.base import Dataset
from fedkd.data.config import DataConfig
from fedkd.data.external import load_external_proxy
from fedkd.data.load import load_dataset

FILES = {
    "mnist": "MNIST/raw/train-images-idx3-ubyte.gz",
    "fashion_mnist": "FashionMNIST/raw/train-images-idx3-ubyte.gz",
    "cifar10": "CIFAR10/train.parquet",
    "camvid": "CamVid/train.parquet",
    "shakespeare": "text/tinyshakespeare.txt",
    "gsm8k": "text/gsm8k_train.jsonl",
}


@pytest.fixture(scope="module")
def kept_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for this file: decoding takes seconds."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def config(real_root: Path, kept_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the configuration of a real data set, or skips the test."""
    monkeypatch.setenv("FEDKD_CACHE", str(kept_cache))

    def make(name: str, **options: Any) -> DataConfig:
        if not (real_root / FILES[name]).is_file():
            pytest.skip(f"{FILES[name]} is not in the folder of the real data")
        if name in {"cifar10", "camvid"}:
            pytest.importorskip("pyarrow", reason="reading parquet needs the extra 'parquet'")
        return DataConfig(name=name, root=str(real_root), **options)

    return make


def statistics(data: Dataset) -> tuple[Any, Any]:
    axes = (0, 2, 3)
    return data.train.x.mean(axes, dtype=np.float64), data.train.x.std(axes, dtype=np.float64)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_grey_sets(config: Any, name: str) -> None:
    data = load_dataset(config(name))
    assert (data.train.x.shape, data.test.x.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    mean, sd = statistics(data)
    np.testing.assert_allclose(mean, 0.0, atol=0.002)
    np.testing.assert_allclose(sd, 1.0, atol=0.002)
    counts = np.bincount(data.train.labels), np.bincount(data.test.labels)
    if name == "mnist":
        assert counts[0].tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        assert counts[1].tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
        assert (round(float(data.train.x.min()), 4), round(float(data.train.x.max()), 4)) == (-0.4242, 2.8215)
    else:
        assert (counts[0].tolist(), counts[1].tolist()) == ([6000] * 10, [1000] * 10)


def test_cifar10(config: Any) -> None:
    data = load_dataset(config("cifar10"))
    assert (data.train.x.shape, data.test.x.shape) == ((50_000, 3, 32, 32), (10_000, 3, 32, 32))
    mean, sd = statistics(data)
    np.testing.assert_allclose(mean, 0.0, atol=0.01)  # re-encoded as JPEG, so not exactly the published figures
    np.testing.assert_allclose(sd, 1.0, atol=0.02)
    assert np.bincount(data.train.labels).tolist() == [5000] * 10
    assert np.bincount(data.test.labels).tolist() == [1000] * 10


def test_a_reduced_run_and_a_validation_part(config: Any) -> None:
    small = load_dataset(config("mnist", max_train=1000, max_test=200))
    assert (len(small.train), len(small.test)) == (1000, 200)
    assert np.bincount(small.train.labels).tolist() == [99, 112, 99, 102, 97, 90, 99, 105, 98, 99]
    validated = load_dataset(config("mnist", validation=0.1, max_train=1000))
    assert (validated.name, len(validated.train)) == ("mnist[validation]", 1000)
    assert abs(len(validated.test) - 6000) <= 5  # rounded class by class


def test_fashion_serves_cifar_as_a_proxy(config: Any) -> None:
    private = load_dataset(config("cifar10", max_train=100, max_test=100))
    proxy = load_external_proxy(config("fashion_mnist"), private, max_samples=500)
    assert proxy.x.shape == (500, 3, 32, 32)
    assert proxy.y is None


@pytest.mark.parametrize("name", FILES)
def test_the_second_process_decodes_nothing_and_needs_no_torch(config: Any, name: str) -> None:
    chosen = config(name)
    load_dataset(chosen)
    code = (
        "import sys; from fedkd.data.config import DataConfig; from fedkd.data.load import load_dataset\n"
        "load_dataset(DataConfig(name=sys.argv[1], root=sys.argv[2]))\n"
        "print(*sorted({'torch', 'pyarrow', 'PIL'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, name, chosen.root]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == []


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("camvid", (367, 3, 180, 240), (233, 3, 180, 240)),
        ("shakespeare", (6500, 128), (722, 128)),
        ("gsm8k", (565, 128), (89, 128)),
    ],
)
def test_sets_without_a_class_per_sample(config: Any, name: str, train: tuple[int, ...], test: tuple[int, ...]) -> None:
    data = load_dataset(config(name))
    assert (data.train.x.shape, data.test.x.shape) == (train, test)
    assert len(np.unique(data.train.strata)) > 3

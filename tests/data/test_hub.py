import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkd.data.base import Dataset
from fedkd.data.config import DataConfig
from fedkd.data.load import load_dataset
from fedkd.errors import ConfigError, DataError, MissingExtraError
from fedkd.types import Array

GREYS = np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)
LABELS = np.arange(20) % 4


def load(root: Path, **options: Any) -> Dataset:
    return load_dataset(DataConfig(name="hub", root=str(root), **options))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The library, kept from the network and from the user's cache."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("datasets", reason="hub data need the extra 'hub'")


@pytest.fixture
def write(hub: Any, encode: Any) -> Any:
    """Writes images GREYS[at] as a parquet file, as the hub does: with the features in its metadata, or without."""

    def save(path: Path, at: slice, *, typed: bool = True, **columns: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        images = [{"bytes": encode(image), "path": None} for image in GREYS[at]]
        content: dict[str, Any] = {"image": images, "label": LABELS[at].tolist(), **columns}
        content = {name: values for name, values in content.items() if values is not None}
        if typed:
            features = hub.Features({"image": hub.Image(), "label": hub.ClassLabel(names=["a", "b", "c", "d"])})
            hub.Dataset.from_dict(content, features=features).to_parquet(str(path))
            return
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as parquet

        parquet.write_table(pa.table(content), path)

    return save


def assert_greys(data: Dataset, train: Array, test: Array) -> None:
    np.testing.assert_allclose(data.train.x, GREYS[train][:, None] / 127.5 - 1, atol=1e-5)
    np.testing.assert_allclose(data.test.x, GREYS[test][:, None] / 127.5 - 1, atol=1e-5)
    np.testing.assert_array_equal(data.train.labels, LABELS[train])
    np.testing.assert_array_equal(data.test.labels, LABELS[test])


@pytest.mark.parametrize("typed", [True, False])
def test_local_parquet_with_both_parts(tmp_path: Path, write: Any, own_cache: Path, typed: bool) -> None:
    write(tmp_path / "own" / "data" / "train-00000-of-00002.parquet", slice(0, 8), typed=typed)
    write(tmp_path / "own" / "data" / "train-00001-of-00002.parquet", slice(8, 16), typed=typed)
    write(tmp_path / "own" / "data" / "test-00000-of-00001.parquet", slice(16, 20), typed=typed)
    data = load(tmp_path / "own")
    assert_greys(data, np.arange(16), np.arange(16, 20))
    assert data.class_names == (("a", "b", "c", "d") if typed else ("0", "1", "2", "3"))
    assert [path.name for path in own_cache.iterdir()] == ["arrays"]  # the library's own copy is gone


def test_a_fifth_is_held_out_and_the_second_load_needs_no_library(
    tmp_path: Path, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "own" / "train.parquet", slice(None))
    first = load(tmp_path / "own")
    assert np.bincount(first.test.labels).tolist() == [1, 1, 1, 1]
    monkeypatch.setitem(sys.modules, "datasets", None)
    np.testing.assert_array_equal(load(tmp_path / "own").train.x, first.train.x)


def test_columns_are_found_or_named(tmp_path: Path, write: Any) -> None:
    coarse = (LABELS // 2).tolist()
    path = tmp_path / "own" / "train.parquet"
    write(path, slice(None), typed=False, label=None, coarse=coarse, fine=[f"kind {n}" for n in LABELS])
    with pytest.raises(DataError, match=r"0 columns that may hold the labels, among image, coarse, fine; name one"):
        load(tmp_path / "own")
    assert load(tmp_path / "own", label_column="coarse").num_classes == 2
    assert load(tmp_path / "own", label_column="fine").class_names == ("kind 0", "kind 1", "kind 2", "kind 3")
    with pytest.raises(ConfigError, match=r"data\.label_column is 'fin', but .* has image, coarse, fine") as caught:
        load(tmp_path / "own", label_column="fin")
    assert caught.value.key == "data.label_column"
    write(path, slice(None), typed=False, label=[0.5] * 20)
    with pytest.raises(DataError, match=r"column 'label' holds float64, expected numbers from 0 or names"):
        load(tmp_path / "own")
    write(path, slice(None), typed=False, image=None, picture=list(range(20)))
    with pytest.raises(DataError, match=r"0 columns that may hold the images, among"):
        load(tmp_path / "own")


def test_images_can_be_resized(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "own" / "train.parquet", slice(None))
    assert load(tmp_path / "own", image_size=5).input_shape == (1, 5, 5)


def test_a_damaged_file_or_image_is_an_error(tmp_path: Path, write: Any, encode: Any) -> None:
    path = tmp_path / "own" / "train.parquet"
    write(path, slice(None))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"own/train\.parquet cannot be read: .*; copy the files again"):
        load(tmp_path / "own")
    images = [{"bytes": encode(image), "path": None} for image in GREYS]
    images[3]["bytes"] = images[3]["bytes"][:30]
    write(path, slice(None), typed=False, image=images)
    with pytest.raises(DataError, match=r"image in row 3 of .*own, train cannot be read"):
        load(tmp_path / "own")


def test_a_name_is_fetched_once_and_only_where_allowed(
    tmp_path: Path, hub: Any, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "far" / "train.parquet", slice(0, 16))
    write(tmp_path / "far" / "test.parquet", slice(16, 20))
    real, asked = hub.load_dataset, []

    def fetch(name: str) -> Any:
        asked.append(name)
        files = {part: str(tmp_path / "far" / f"{part}.parquet") for part in ("train", "test")}
        return real("parquet", data_files=files, cache_dir=str(tmp_path / "hf"))

    monkeypatch.setattr(hub, "load_dataset", fetch)
    config = DataConfig(name="hub", hub_name="someone/greys")
    with pytest.raises(DataError, match=r"'someone/greys' is not in the cache yet; set data\.download = true"):
        load_dataset(config)
    assert asked == []
    for download in (True, True, False):
        data = load_dataset(DataConfig(name="hub", hub_name="someone/greys", download=download))
        assert_greys(data, np.arange(16), np.arange(16, 20))
    assert asked == ["someone/greys"]


def test_a_failed_download_is_one_clear_error(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Any:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(hub, "load_dataset", fail)
    with pytest.raises(DataError, match=r"'hub' could not be downloaded to .*: no route to host"):
        load_dataset(DataConfig(name="hub", hub_name="someone/greys", download=True))


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "train.parquet").touch()
    with pytest.raises(MissingExtraError, match=r"data\.name 'hub' needs 'datasets'.*'fedkd\[hub\]'"):
        load(tmp_path / "own")


def test_something_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.hub_name is '', and so is data\.root; name a data set") as caught:
        load_dataset(DataConfig(name="hub"))
    assert caught.value.key == "data.hub_name"
    with pytest.raises(DataError, match=r"holds no train\*\.parquet"):
        load(tmp_path)

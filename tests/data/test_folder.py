from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkd.data.base import Dataset
from fedkd.data.config import DataConfig
from fedkd.data.load import load_dataset
from fedkd.errors import DataError


def load(root: Path, **options: Any) -> Dataset:
    return load_dataset(DataConfig(name="folder", root=str(root), **options))


@pytest.fixture
def pets(tmp_path: Path, write_image: Any) -> Path:
    """Ten dogs (value 200) and twenty cats (value 50)."""
    for i in range(10):
        write_image(f"pets/dog/{i:02}.png", value=200)
    for i in range(20):
        write_image(f"pets/cat/{i:02}.PNG", value=50)
    return tmp_path / "pets"


def test_class_folders_with_a_fifth_held_out(pets: Path) -> None:
    data = load(pets)
    assert data.class_names == ("cat", "dog")
    assert (np.bincount(data.train.labels).tolist(), np.bincount(data.test.labels).tolist()) == ([16, 8], [4, 2])
    assert data.input_shape == (1, 6, 6)
    for part in (data.train, data.test):
        expected = np.where(part.labels == 1, 200 / 127.5 - 1, 50 / 127.5 - 1)
        np.testing.assert_allclose(part.x.mean((1, 2, 3)), expected, atol=1e-5)
    again = load(pets)
    np.testing.assert_array_equal(again.test.x, data.test.x)


def test_parts_of_their_own(tmp_path: Path, write_image: Any) -> None:
    for part, count in (("train", 3), ("test", 2)):
        for name in ("a", "b"):
            for i in range(count):
                write_image(f"own/{part}/{name}/deep/{i}.jpg")
    data = load(tmp_path / "own")
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 0, 0, 1, 1, 1], [0, 0, 1, 1])


def test_other_files_are_passed_by(pets: Path, write_image: Any) -> None:
    (pets / "cat" / "notes.txt").write_text("no image")
    (pets / "cat" / ".hidden.png").write_text("no image")
    (pets / ".git").mkdir()
    assert len(load(pets).train) == 24


def test_an_added_image_is_seen(pets: Path, write_image: Any) -> None:
    load(pets)
    write_image("pets/dog/new.png", value=0)
    data = load(pets)
    assert len(data.train) + len(data.test) == 31


def test_sizes_that_differ_need_one_size(pets: Path, write_image: Any) -> None:
    write_image("pets/dog/large.png", size=(9, 6))
    with pytest.raises(DataError, match=r"00\.PNG is 6x6, .*large\.png is 9x6; set data\.image_size"):
        load(pets)
    assert load(pets, image_size=4).input_shape == (1, 4, 4)
    assert load(pets, image_size=5).input_shape == (1, 5, 5)  # not what the cache holds for another size


def test_a_damaged_image_is_named(pets: Path) -> None:
    path = pets / "dog" / "03.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"dog/03\.png cannot be read"):
        load(pets)


def test_one_class_is_an_error(tmp_path: Path, write_image: Any) -> None:
    write_image("lone/cat/0.png")
    with pytest.raises(DataError, match=r"lone has the one class folder 'cat', expected two or more"):
        load(tmp_path / "lone")


def test_no_class_no_image_and_an_unknown_class_are_errors(tmp_path: Path, pets: Path, write_image: Any) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty has no class folder"):
        load(tmp_path / "empty")
    (pets / "fish").mkdir()
    with pytest.raises(DataError, match=r"pets/fish holds no image; add some \(\.bmp, "):
        load(pets)
    for name in ("train/a/0.png", "train/b/0.png", "test/a/0.png", "test/c/0.png"):
        write_image(f"parts/{name}")
    with pytest.raises(DataError, match="test has the class 'c', which the training data lack"):
        load(tmp_path / "parts")


def test_a_root_is_needed(tmp_path: Path, write_image: Any) -> None:
    with pytest.raises(DataError, match=r"'folder' reads your own data: set data\.root to a folder with train/<class>"):
        load_dataset(DataConfig(name="folder"))
    with pytest.raises(DataError, match=r"data\.root .*/absent does not exist"):
        load(tmp_path / "absent")
    with pytest.raises(DataError, match=r"file\.png is no folder"):
        load(write_image("file.png"))

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedkd.data.cache import cache_root, cached, scratch_folder
from fedkd.errors import DataError
from fedkd.types import Array

X = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.bin"
    path.write_bytes(b"original")
    return path


class Builder:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, Array]:
        self.calls += 1
        return {"x": X, "names": np.array(["a", "bc"])}


def entries(cache: Path) -> list[Path]:
    return sorted((cache / "arrays").iterdir())


def test_the_second_call_maps_what_the_first_one_built(source: Path, own_cache: Path) -> None:
    build = Builder()
    first, second = (cached("toy", [source], build) for _ in range(2))
    assert build.calls == 1
    for arrays in (first, second):
        np.testing.assert_array_equal(arrays["x"], X)
        assert arrays["names"].tolist() == ["a", "bc"]
    assert isinstance(second["x"], np.memmap)
    assert not second["x"].flags.writeable
    assert [path.name for path in source.parent.iterdir() if path.is_file()] == ["source.bin"]
    assert len(entries(own_cache)) == 1  # nothing half-written is left


@pytest.mark.parametrize("change", ["content", "time"])
def test_a_changed_source_is_built_again_and_its_old_entry_goes(source: Path, own_cache: Path, change: str) -> None:
    build = Builder()
    cached("toy", [source], build)
    if change == "content":
        source.write_bytes(b"another length")
    else:
        os.utime(source, ns=(1, 1))
    cached("toy", [source], build)
    assert build.calls == 2
    assert len(entries(own_cache)) == 1


def test_options_names_and_places_have_entries_of_their_own(source: Path, own_cache: Path) -> None:
    build = Builder()
    other = source.with_name("other.bin")
    other.write_bytes(source.read_bytes())
    for name, path, options in (
        ("toy", source, ""),
        ("toy", source, "size 8"),
        ("ball", source, ""),
        ("toy", other, ""),
    ):
        cached(name, [path], build, options=options)
    assert build.calls == 4
    assert len(entries(own_cache)) == 4


def flip_a_byte(entry: Path) -> None:
    path = entry / "x.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def shape_it_otherwise(entry: Path) -> None:
    np.save(entry / "x.npy", X.reshape(4, 3))


def make_it_a_pickle(entry: Path) -> None:
    np.save(entry / "x.npy", np.array([{}], object), allow_pickle=True)


DAMAGES: list[Callable[[Path], object]] = [
    flip_a_byte,
    shape_it_otherwise,
    make_it_a_pickle,
    lambda entry: os.truncate(entry / "x.npy", 100),
    lambda entry: os.truncate(entry / "x.npy", 0),
    lambda entry: (entry / "x.npy").unlink(),
    lambda entry: (entry / "manifest.json").unlink(),
    lambda entry: (entry / "manifest.json").write_text("{"),
    lambda entry: (entry / "manifest.json").write_text("[]"),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_found_and_built_again(
    source: Path, own_cache: Path, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    build = Builder()
    cached("toy", [source], build)
    damage(entries(own_cache)[0])
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(cached("toy", [source], build)["x"], X)
    assert build.calls == 2
    assert "is damaged and built again" in caplog.text
    np.testing.assert_array_equal(cached("toy", [source], build)["x"], X)
    assert build.calls == 2


def test_writers_at_the_same_time_agree(source: Path, own_cache: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; import numpy as np; from fedkd.data.cache import cached\n"
        "def build():\n    time.sleep(0.2)\n    return {'x': np.arange(100_000)}\n"
        "for _ in range(3): print(int(cached('toy', [Path(sys.argv[1])], build)['x'].sum()))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(source)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for process in started:
        out, err = process.communicate(timeout=120)
        assert (out.split(), err) == ([b"4999950000"] * 3, b"")
    assert len(entries(own_cache)) == 1


def test_a_cache_that_cannot_be_written_costs_time_only(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEDKD_CACHE", str(tmp_path / "file" / "cache"))
    build = Builder()
    for _ in range(2):
        np.testing.assert_array_equal(cached("toy", [source], build)["x"], X)
    assert build.calls == 2
    assert "are not kept" in caplog.text
    assert "set FEDKD_CACHE" in caplog.text
    with scratch_folder() as folder:
        assert folder.is_dir()
    assert not folder.exists()


def test_a_failed_build_leaves_nothing(source: Path, own_cache: Path) -> None:
    def fail() -> dict[str, Array]:
        raise DataError("the source is damaged")

    with pytest.raises(DataError, match="the source is damaged"):
        cached("toy", [source], fail)
    assert not (own_cache / "arrays").exists()


def test_the_scratch_folder_lies_in_the_cache_and_goes(own_cache: Path) -> None:
    with scratch_folder() as folder:
        (folder / "file").touch()
        assert folder.parent == own_cache
    assert list(own_cache.iterdir()) == []


def test_the_root_is_the_environments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_root() == tmp_path / "cache"
    monkeypatch.delenv("FEDKD_CACHE")
    assert cache_root() == Path("/somewhere/fedkd")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "fedkd"

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(DataError, match="set FEDKD_CACHE"):
        cache_root()


def test_reading_is_quick(tmp_path: Path) -> None:
    source = tmp_path / "big.bin"
    source.touch()
    cached("big", [source], lambda: {"x": np.zeros(50_000_000, np.uint8)})
    start = time.perf_counter()
    cached("big", [source], dict)
    assert time.perf_counter() - start < 2.0

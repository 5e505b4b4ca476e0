import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.data.partition_file import PartitionTable
from fedkd.errors import DataError

TABLE = PartitionTable.of((np.array([0, 3]), np.array([1]), np.array([2, 4, 5])))


def assert_same(left: PartitionTable, right: PartitionTable) -> None:
    assert left.digest == right.digest
    assert [ids.tolist() for ids in left.indices] == [ids.tolist() for ids in right.indices]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    TABLE.save(tmp_path / "partition.npz")
    assert_same(PartitionTable.load(tmp_path / "partition.npz"), TABLE)
    assert [path.name for path in tmp_path.iterdir()] == ["partition.npz"]  # nothing is left beside it


def test_equal_tables_make_equal_files(tmp_path: Path) -> None:
    TABLE.save(tmp_path / "a.npz")
    TABLE.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "partition.npz"
    TABLE.save(path)
    monkeypatch.setattr(np, "savez", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        PartitionTable.of((np.array([9]),)).save(path)
    monkeypatch.undo()
    assert_same(PartitionTable.load(path), TABLE)
    assert [p.name for p in tmp_path.iterdir()] == ["partition.npz"]


def test_the_digest_tells_who_holds_what() -> None:
    a, b = np.array([0, 1]), np.array([2])
    digests = {
        PartitionTable.of(indices).digest for indices in [(a, b), (b, a), (np.array([0]), np.array([1, 2])), (a,)]
    }
    assert len(digests) == 4


def test_the_digest_ignores_the_width_of_the_numbers() -> None:
    assert PartitionTable.of((np.array([1, 2], np.int32),)).digest == PartitionTable.of((np.array([1, 2]),)).digest


def test_the_digest_is_stable() -> None:
    assert TABLE.digest == "f88cb55cb191fd5638f1ae441b499498"


def test_ten_thousand_clients_are_quick(tmp_path: Path) -> None:
    table = PartitionTable.of(tuple(np.array_split(np.arange(60_000), 10_000)))
    start = time.perf_counter()
    table.save(tmp_path / "p.npz")
    assert_same(PartitionTable.load(tmp_path / "p.npz"), table)
    assert time.perf_counter() - start < 5.0
    assert (tmp_path / "p.npz").stat().st_size < 600_000


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.npz cannot be read"):
        PartitionTable.load(tmp_path / "absent.npz")


def test_tampered_content_is_found(tmp_path: Path) -> None:
    path = tmp_path / "tampered.npz"
    np.savez(path, samples=np.array([0, 3, 1, 2, 5, 4]), offsets=np.array([0, 2, 3, 6]), digest=np.array(TABLE.digest))
    with pytest.raises(DataError, match=r"tampered\.npz does not have the content that its digest"):
        PartitionTable.load(path)


@pytest.mark.parametrize(
    "arrays",
    [
        {"samples": np.arange(3)},
        {"samples": np.arange(3.0), "offsets": np.array([0, 3]), "digest": np.array("x")},
        {"samples": np.arange(3), "offsets": np.array([0, 2]), "digest": np.array("x")},
        {"samples": np.arange(3), "offsets": np.array([0, 4, 3]), "digest": np.array("x")},
        {"samples": np.arange(3), "offsets": np.array([], np.int64), "digest": np.array("x")},
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, arrays: dict[str, Any]) -> None:
    np.savez(tmp_path / "odd.npz", **arrays)
    with pytest.raises(DataError, match=r"odd\.npz cannot be read"):
        PartitionTable.load(tmp_path / "odd.npz")


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "objects.npz"
    np.savez(path, samples=np.array([{}], object), offsets=np.array([0, 1]), digest=np.array("x"))
    with pytest.raises(DataError, match=r"objects\.npz cannot be read"):
        PartitionTable.load(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "bare.npy", np.arange(3))
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").touch()
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("samples.npy", b"no array")
    for name in ("bare.npy", "text.npz", "empty.npz", "other.npz"):
        with pytest.raises(DataError, match=rf"{name} cannot be read"):
            PartitionTable.load(tmp_path / name)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("fuzz") / "partition.npz"
    TABLE.save(path)
    return path, path.read_bytes()


@given(at=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), cut=st.booleans())
def test_damage_is_refused_or_harmless(saved: tuple[Path, bytes], at: float, value: int, cut: bool) -> None:
    path, good = saved
    spot = int(at * len(good))
    path.write_bytes(good[:spot] if cut else good[:spot] + bytes([value]) + good[spot + 1 :])
    try:
        table = PartitionTable.load(path)
    except DataError:
        return
    assert_same(table, TABLE)  # the byte was one of the zip's that mean nothing

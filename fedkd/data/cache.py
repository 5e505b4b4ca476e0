"""Decoded arrays on disk, so that the next process maps them instead of decoding again.

An entry is a folder of .npy files and a manifest with their digests. It is written beside and renamed whole, so writers
never meet; its name holds path, size and time of every source, so a changed source makes a new entry. What is damaged
is dropped and built again. Reading an entry imports NumPy alone: no torch, no image library.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from fedkd.errors import DataError
from fedkd.types import Array

LAYOUT = 1  # bumped when the same sources decode to other arrays
_MANIFEST = "manifest.json"
_log = logging.getLogger(__name__)


def cache_root() -> Path:
    """$FEDKD_CACHE, else `fedkd` in the user's cache folder ($XDG_CACHE_HOME, or ~/.cache)."""
    own, shared = os.environ.get("FEDKD_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(own) if own else (Path(shared) if shared else Path.home() / ".cache") / "fedkd"
        return folder.expanduser().absolute()
    except RuntimeError as error:
        raise DataError("there is no home folder to keep decoded data in; set FEDKD_CACHE to a folder") from error


def cached(
    name: str, sources: Sequence[Path], build: Callable[[], Mapping[str, Array]], *, options: str = ""
) -> Mapping[str, Array]:
    """What `build` returns, from the cache where the same sources were built before; read-only and memory-mapped there.

    Args:
        name: of the data set, for the entry's folder.
        sources: every file that the arrays are decoded from.
        options: whatever else decides what `build` returns.
    """
    paths = [path.resolve() for path in sources]
    stats = [path.stat() for path in paths]
    place = _digest(json.dumps([LAYOUT, options, *map(str, paths)]).encode())[:16]
    stamp = _digest(json.dumps([[stat.st_size, stat.st_mtime_ns] for stat in stats]).encode())[:16]
    entry = cache_root() / "arrays" / f"{name}-{place}-{stamp}"
    found = _read(entry)
    if found is not None:
        return found
    built = {key: np.ascontiguousarray(array) for key, array in build().items()}
    try:
        _publish(entry, built)
        for outdated in entry.parent.glob(f"{name}-{place}-*"):  # whoever maps an old entry keeps its files
            if outdated != entry:
                shutil.rmtree(outdated, ignore_errors=True)
    except OSError as error:
        _log.warning(
            "decoded %s data are not kept, each process decodes again: %s; set FEDKD_CACHE to a folder with space",
            name,
            error,
        )
    return built


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder in the cache, or in the system's temporary folder where the cache cannot be written."""
    parent: Path | None = cache_root()
    try:
        cache_root().mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=".unpacked-", dir=parent)
    except OSError:
        folder = tempfile.mkdtemp(prefix="fedkd-unpacked-")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read(entry: Path) -> Mapping[str, Array] | None:
    if not entry.is_dir():
        return None
    arrays = {}
    try:
        manifest = json.loads((entry / _MANIFEST).read_bytes())
        for key, digest in manifest.items():
            array = np.load(entry / f"{key}.npy", mmap_mode="r", allow_pickle=False)
            if _array_digest(array) != digest:
                raise ValueError(f"{key}.npy does not have the content that the manifest names")
            arrays[key] = array
    except (OSError, ValueError, TypeError, AttributeError, EOFError, SyntaxError) as error:
        _log.warning("cache entry %s is damaged and built again: %s", entry, error)
        shutil.rmtree(entry, ignore_errors=True)
        return None
    return arrays


def _publish(entry: Path, arrays: Mapping[str, Array]) -> None:
    """Write the entry; where another process was first, its entry stays. No fsync: the digests find half a file."""
    beside = entry.with_name(f".{entry.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        beside.mkdir(parents=True)
        for key, array in arrays.items():
            np.save(beside / f"{key}.npy", array, allow_pickle=False)
        (beside / _MANIFEST).write_text(json.dumps({key: _array_digest(array) for key, array in arrays.items()}))
        try:
            beside.rename(entry)
        except OSError:
            if not entry.is_dir():
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _array_digest(array: Array) -> str:
    return _digest(f"{array.dtype.str}{array.shape}".encode(), array.reshape(-1).view(np.uint8).data)


def _digest(*parts: bytes | memoryview) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()

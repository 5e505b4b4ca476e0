"""A partition on disk: what the run folder keeps and what clients are checked against."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from fedkd.errors import DataError
from fedkd.types import Ids

_Flat: TypeAlias = tuple[Ids, Ids]


@dataclass(frozen=True, eq=False)
class PartitionTable:
    """Which samples each client holds, and the digest of that.

    The digest tells two partitions apart and finds damage; it is no signature.
    """

    indices: tuple[Ids, ...]
    digest: str

    @classmethod
    def of(cls, indices: tuple[Ids, ...]) -> PartitionTable:
        """The table of these indices, with its digest."""
        return cls(indices, _digest(*_flatten(indices)))

    def save(self, path: Path) -> None:
        """Write an .npz: one flat array of samples and the clients' offsets in it. Written beside and renamed."""
        samples, offsets = _flatten(self.indices)
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, samples=samples, offsets=offsets, digest=np.array(self.digest))
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            os.unlink(beside)
            raise

    @classmethod
    def load(cls, path: Path) -> PartitionTable:
        """The table in the file at `path`.

        Raises:
            DataError: the file is missing, no partition, damaged, or does not have the content its digest names.
        """
        try:
            samples, offsets, digest = _read(path)
        except _UNREADABLE as error:
            raise DataError(f"partition file {path} cannot be read: {error}; {_REMEDY}") from error
        if digest != _digest(samples, offsets):
            raise DataError(
                f"partition file {path} does not have the content that its digest {digest} names; {_REMEDY}"
            )
        return cls(tuple(np.split(samples, offsets[1:-1])), digest)


# What numpy and zipfile raise at damaged files; RuntimeError where a bit says "encrypted", MemoryError at absurd sizes.
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)
_REMEDY = "copy it again from its run, or delete it and let a new run write one"


def _flatten(indices: tuple[Ids, ...]) -> _Flat:
    offsets = np.zeros(len(indices) + 1, np.int64)
    np.cumsum([len(ids) for ids in indices], out=offsets[1:])
    return np.concatenate([np.zeros(0, np.int64), *indices]).astype(np.int64, copy=False), offsets


def _digest(samples: Ids, offsets: Ids) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(offsets.astype("<i8").tobytes() + samples.astype("<i8").tobytes())  # the last offset bounds the rest
    return digest.hexdigest()


def _read(path: Path) -> tuple[Ids, Ids, str]:
    with path.open("rb") as file:  # np.load would leave a damaged file open
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds a bare array")
        with archive:
            samples, offsets, digest = archive["samples"], archive["offsets"], str(archive["digest"])
    if any(array.dtype != np.int64 or array.ndim != 1 for array in (samples, offsets)):
        raise ValueError("its arrays are not lists of whole numbers")
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(samples) or (np.diff(offsets) < 0).any():
        raise ValueError("its offsets do not fit its samples")
    return samples, offsets, digest

"""Writing files so that a crash, a full disk or a power cut never leaves half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from pathlib import Path

from fedkd.errors import FedKDError


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Put `data` at `path`; a reader finds the old file or the new one, whole, also after a power cut.

    Args:
        durable: false where only other processes of this machine need it: a power cut may then take it.

    Raises:
        FedKDError: the file cannot be written (no space, no permission, no such folder); the old one is untouched.
    """
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with beside.open("xb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
    if durable:
        _sync_folder(path.parent)


def cannot_write(path: Path, error: OSError) -> FedKDError:
    """The readable form of an OSError met while writing `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "free some space there, then resume or start again"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = "write to a folder that you own"
    else:
        advice = "check that the folder exists and is writable"
    return FedKDError(f"cannot write {path}: {error.strerror or error}; {advice}")


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the file system can."""
    with contextlib.suppress(OSError):  # some network file systems refuse; the file's own bytes are safe already
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

"""Where data lie, and the one message for data that do not."""

from __future__ import annotations

from pathlib import Path

from fedkd.data.cache import cache_root
from fedkd.data.config import DataConfig
from fedkd.errors import DataError


def data_root(config: DataConfig) -> Path:
    """`data.root`; where it is empty, the cache's folder that `data.download` fills."""
    return Path(config.root).expanduser().absolute() if config.root else cache_root() / "datasets"


def required_root(config: DataConfig, expected: str) -> Path:
    """`data.root`, which must be given and there; `expected` says in words what it is to hold."""
    if not config.root:
        raise DataError(f"data.name {config.name!r} reads your own data: set data.root to {expected}")
    root = data_root(config)
    if not root.exists():
        raise DataError(f"data.root {root} does not exist; set it to {expected}")
    return root


def missing(config: DataConfig, root: Path, expected: str, *, can_fetch: bool = True) -> DataError:
    """The error for a known data set that is not under `root`; `expected` names its files.

    Args:
        can_fetch: `data.download` would help.
    """
    where = "data.root" if config.root else "data.root (empty: the cache)"
    return DataError(
        f"data set {config.name!r} is not in {root}: expected {expected}; put the files there, or set {where} to "
        f"the folder that has them{', or set data.download = true to fetch them' if can_fetch else ''}"
    )


def failed_download(config: DataConfig, root: Path, error: BaseException) -> DataError:
    """The error for a download that did not work."""
    return DataError(
        f"data set {config.name!r} could not be downloaded to {root}: {error}; check network and folder, or put the "
        "files there yourself"
    )

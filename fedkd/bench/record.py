"""What every benchmark does alike: interleaved repeats, and where its figures come from."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from typing import Any, TypeVar

from fedkd.provenance import checkout, processor

T = TypeVar("T")
R = TypeVar("R")


def interleaved(items: Sequence[T], repeats: int, measure: Callable[[T], R]) -> list[list[R]]:
    """For each item what `measure` gave, by repeat.

    Every repeat goes once through all items, so that a busy machine slows all alike.
    """
    rounds = [[measure(item) for item in items] for _ in range(repeats)]
    return [list(found) for found in zip(*rounds, strict=True)]


def record_of(command: str, packages: Iterable[str]) -> dict[str, Any]:
    """The head of a record: the command that repeats it, the code, the machine and the versions of packages."""
    commit, is_dirty = checkout()
    return {"command": command, "commit": commit, "is_dirty": is_dirty, "machine": machine(packages)}


def machine(packages: Iterable[str]) -> dict[str, Any]:
    """The machine that figures come from."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }

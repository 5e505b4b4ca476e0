"""Optional dependencies: import where needed, refuse kindly where missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from fedkd.errors import MissingExtraError


def need(module: str, *, extra: str, what: str) -> ModuleType:
    """The imported `module`, or MissingExtraError that says which extra brings it and `what` asked for it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"{what} needs {module!r}, which is not installed; run: pip install 'fedkd[{extra}]'"
        ) from error

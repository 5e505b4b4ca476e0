"""Names to objects: the tables map a short name to `package.module:Attribute`, and outside code joins the same way."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from fedkd.errors import ConfigError


def nearest(name: str, names: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest of `names`, or a full stop when none is close."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "."


def resolve(table: Mapping[str, str], name: str, *, what: str) -> Any:
    """The object that `name` stands for: an entry of `table`, or `package.module:Attribute` from outside.

    Raises:
        ConfigError: the name is unknown, or the module or attribute cannot be imported.
    """
    path = table.get(name, name)
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or module_name.startswith("."):
        known = ", ".join(sorted(table))
        raise ConfigError(
            f"is {name!r}, which is no {what} here{nearest(name, table)} Known: {known}; "
            "code of your own joins as 'package.module:Class'",
            key="name",
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # a dependency of the module is missing: the module's own message is the better one
        raise ConfigError(
            f"is {name!r}, but module {module_name!r} cannot be imported; install it or put it on PYTHONPATH",
            key="name",
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise ConfigError(
            f"is {name!r}, but {module_name!r} has no {attribute!r}; check the spelling", key="name"
        ) from error

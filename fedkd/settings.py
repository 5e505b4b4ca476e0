"""From flat keys to frozen dataclasses: unknown keys, wrong types and bad ranges become one readable error each."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection, Mapping
from typing import Any

from fedkd.errors import ConfigError
from fedkd.lookup import nearest
from fedkd.types import Scalar


def defaults_of(config: type) -> dict[str, Scalar]:
    """The default of every field of a Config dataclass."""
    return {field.name: typing.cast(Scalar, field.default) for field in dataclasses.fields(config)}


def build_config(
    config: type,
    values: Mapping[str, Scalar],
    *,
    group: str,
    origins: Mapping[str, str],
    shared: Collection[str] = (),
) -> Any:
    """An instance of the Config dataclass `config` from bare keys.

    Args:
        group: the group's name, for messages; "" for keys without a group.
        origins: flat key -> where the value came from (a preset, a file, the command line).
        shared: names of the group that another Config takes; they are suggested too.

    Raises:
        ConfigError: naming key, value, origin, what was expected and what to do.
    """
    hints = typing.get_type_hints(config)
    names = [field.name for field in dataclasses.fields(config)]
    known = [*shared, *names]
    for name in values:
        if name not in names:
            flat = flat_key(group, name)
            raise ConfigError(
                f"unknown key {flat!r}{origin_of(flat, origins)}{nearest(name, known)} "
                f"'{group}' has: {', '.join(known)}",
                key=flat,
            )
    typed = {name: coerce(value, hints[name], flat_key(group, name), origins) for name, value in values.items()}
    try:
        return config(**typed)
    except ConfigError as error:
        flat = flat_key(group, error.key or "")
        raise ConfigError(f"{flat}{origin_of(flat, origins)} {error}", key=flat) from error


def coerce(value: Scalar, kind: type, key: str, origins: Mapping[str, str]) -> Scalar:
    """`value` as `kind`, where that loses nothing; ConfigError otherwise."""
    if isinstance(value, bool) or kind is bool:
        if isinstance(value, bool) and kind is bool:
            return value
    elif kind is float and isinstance(value, int | float):
        return float(value)
    elif kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    elif kind is str and not isinstance(value, str):
        return f"{value}"
    elif isinstance(value, kind):
        return value
    raise ConfigError(
        f"{key}{origin_of(key, origins)} is {value!r}, expected {_NAMES.get(kind, kind.__name__)}; correct the value",
        key=key,
    )


_NAMES: Mapping[type, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def flat_key(group: str, name: str) -> str:
    """`group.name`; the bare name where the group is "", the bare group where no name is known."""
    return ".".join(part for part in (group, name) if part)


def origin_of(key: str, origins: Mapping[str, str]) -> str:
    """`" (from <origin>)"` where the origin of the flat key is known, else nothing."""
    return f" (from {origins[key]})" if key in origins else ""

"""Checks on configuration values that every frozen Config calls in `__post_init__`."""

from __future__ import annotations

from collections.abc import Collection

from fedkd.errors import ConfigError
from fedkd.lookup import nearest


def check_range(
    name: str,
    value: float,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> None:
    """Raise ConfigError unless low <= value <= high and above < value < below (bounds not given do not bind)."""
    bounds = (
        (low, "at least", lambda v, b: v >= b),
        (high, "at most", lambda v, b: v <= b),
        (above, "greater than", lambda v, b: v > b),
        (below, "less than", lambda v, b: v < b),
    )
    wanted = [f"{words} {bound:g}" for bound, words, _ in bounds if bound is not None]
    if not all(holds(value, bound) for bound, _, holds in bounds if bound is not None):
        raise ConfigError(f"is {value!r}, expected {' and '.join(wanted)}", key=name)


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raise ConfigError unless `value` is one of `choices`; suggests the nearest one."""
    if value not in choices:
        raise ConfigError(f"is {value!r}, expected one of {', '.join(sorted(choices))}{nearest(value, choices)}", key=name)

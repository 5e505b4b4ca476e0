"""Checks on configuration values that every frozen Config calls in `__post_init__`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection

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
    bounds: tuple[tuple[float | None, str, Callable[[float, float], bool]], ...] = (
        (low, "at least", operator.ge),
        (high, "at most", operator.le),
        (above, "greater than", operator.gt),
        (below, "less than", operator.lt),
    )
    wanted = [f"{words} {bound:g}" for bound, words, _ in bounds if bound is not None]
    if not all(holds(value, bound) for bound, _, holds in bounds if bound is not None):
        raise ConfigError(f"is {value!r}, expected {' and '.join(wanted)}", key=name)


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raise ConfigError unless `value` is one of `choices`; suggests the nearest one."""
    if value not in choices:
        raise ConfigError(
            f"is {value!r}, expected one of {', '.join(sorted(choices))}{nearest(value, choices)}", key=name
        )


def names_in(key: str, text: str) -> tuple[str, ...]:
    """The different names in a text like `fc1, fc2`, in its order.

    Raises:
        ConfigError: an empty one, or one that stands twice.
    """
    names = tuple(part.strip() for part in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError(f"is {text!r}, expected different names separated by commas, like 'fc1,fc2'", key=key)
    return names


def numbers_in(key: str, text: str, *, low: int = 0) -> tuple[int, ...]:
    """The whole numbers in a text like `0, 1`, in its order; each is at least `low` and stands once.

    Raises:
        ConfigError: they are not.
    """
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < low or len(set(numbers)) < len(numbers):
        raise ConfigError(
            f"is {text!r}, expected different whole numbers separated by commas, at least {low} each, like '0,1'",
            key=key,
        )
    return numbers

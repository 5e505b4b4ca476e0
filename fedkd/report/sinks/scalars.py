"""What of an event other tools can draw: single numbers by name, and numbers by client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedkd.report.events import ROUND_ID

BY_CLIENT_UP_TO = 32  # more clients than this would bury every other curve


def scalars(event: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of the event, and `<name>/<client>` for short lists by client."""
    found: dict[str, float] = {}
    for name, value in event.items():
        if name == ROUND_ID or isinstance(value, bool):
            continue
        if isinstance(value, int | float):
            found[name] = float(value)
        elif name.endswith("per_client") and isinstance(value, list) and len(value) <= BY_CLIENT_UP_TO:
            numbers = {f"{name}/{client}": each for client, each in enumerate(value)}
            found |= {key: float(each) for key, each in numbers.items() if isinstance(each, int | float)}
    return found

"""What the coordinator needs of whoever keeps its numbers; `fedkd.report.events` keeps them as JSON lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

# Numbers, or (nested) lists of numbers and nulls.
EventValue: TypeAlias = "float | int | list[EventValue] | dict[str, EventValue] | None"

SETUP_ROUND = -1  # round_id of what is emitted before the first round; the closing message has round_id == rounds


class Emitter(Protocol):
    """One emitter for numbers; names are those of `fedkd.metric_names`."""

    def emit(self, round_id: int, values: Mapping[str, EventValue]) -> None:
        """Append numbers that are the same whenever the run is repeated."""

    def clock(self, round_id: int, values: Mapping[str, EventValue]) -> None:
        """Append clock and memory readings, which are not."""

    def position(self) -> dict[str, int]:
        """Where the files end now; goes into a checkpoint."""

    def rewind(self, position: Mapping[str, int]) -> None:
        """Drop what was emitted after `position`; for a resumed run."""

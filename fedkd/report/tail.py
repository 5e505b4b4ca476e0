"""Following the event files of a run that another process writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(eq=False)
class Tail:
    """Hands new whole lines of metrics and timings to listeners, metrics of a round before its timings."""

    metrics: Path
    timings: Path
    listeners: Sequence[Callable[[Mapping[str, Any]], object]]
    _read: dict[Path, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path in (self.metrics, self.timings):  # what a resumed run had told before is no news
            self._read[path] = path.stat().st_size if path.exists() else 0

    def follow(self) -> None:
        """Tell what has been added since the last call."""
        # Timings first: whatever they hold, the metrics of the same round are already in their file.
        timings, metrics = self._news(self.timings), self._news(self.metrics)
        for event in sorted(
            [*metrics, *timings], key=lambda event: int(event["round_id"])
        ):  # stable: metrics stay ahead
            for listener in self.listeners:
                listener(event)

    def _news(self, path: Path) -> list[dict[str, Any]]:
        if not path.exists():
            return []
        start = min(self._read[path], path.stat().st_size)  # a resumed run cuts its files back to the checkpoint
        with path.open("rb") as file:
            file.seek(start)
            data = file.read()
        whole = data.rfind(b"\n") + 1
        self._read[path] = start + whole
        return [json.loads(line) for line in data[:whole].splitlines()]

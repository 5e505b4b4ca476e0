"""Events: the numbers of a run as JSON lines. Every summary, plot and report is built from these files alone."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, final

import numpy as np

from fedkd.errors import DataError, StateError
from fedkd.files import cannot_write

Event: TypeAlias = dict[str, Any]
Listener: TypeAlias = Callable[[Event], object]

ROUND_ID = "round_id"


@final
class Events:
    """Appends events to metrics.jsonl and timings.jsonl, one flushed line each; an `Emitter`.

    Values may be numbers, numpy scalars and arrays, nested lists and mappings; NaN and infinities become null.
    A line that a crash left half written is dropped on opening. `listeners` (progress, other sinks) are called with
    every event after it was written.
    """

    def __init__(self, metrics_path: Path, timings_path: Path, *, listeners: Sequence[Listener] = ()) -> None:
        self._metrics = _Lines(metrics_path)
        self._timings = _Lines(timings_path)
        self._listeners = tuple(listeners)

    def emit(self, round_id: int, values: Mapping[str, object]) -> None:
        """Append one event to metrics.jsonl."""
        self._append(self._metrics, round_id, values)

    def clock(self, round_id: int, values: Mapping[str, object]) -> None:
        """Append one event to timings.jsonl."""
        self._append(self._timings, round_id, values)

    def position(self) -> dict[str, int]:
        """Byte lengths of both files, which are on the disk when this returns."""
        return {"metrics": self._metrics.durable_length(), "timings": self._timings.durable_length()}

    def rewind(self, position: Mapping[str, int]) -> None:
        """Drop what was appended after `position`.

        Raises:
            StateError: a file is shorter than `position` says, or no line ends there.
        """
        for lines, name in ((self._metrics, "metrics"), (self._timings, "timings")):
            lines.check_end(position[name])
        self._metrics.cut(position["metrics"])
        self._timings.cut(position["timings"])

    def close(self) -> None:
        """Close both files."""
        self._metrics.close()
        self._timings.close()

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, lines: _Lines, round_id: int, values: Mapping[str, object]) -> None:
        event = {ROUND_ID: int(round_id), **{name: plain(value, name=name) for name, value in values.items()}}
        lines.append(json.dumps(event, allow_nan=False, separators=(", ", ": ")).encode() + b"\n")
        for listener in self._listeners:
            listener(event)


@final
class History:
    """Events by name. Where a name was emitted twice in one round, the later value counts; null counts as absent."""

    def __init__(self, events: Iterable[Mapping[str, Any]]) -> None:
        self._values: dict[str, dict[int, Any]] = {}
        for event in events:
            for name, value in event.items():
                if name != ROUND_ID and value is not None:
                    self._values.setdefault(name, {})[event[ROUND_ID]] = value

    @classmethod
    def read(cls, path: Path) -> History:
        """The history in a JSON-lines file."""
        return cls(read_events(path))

    def names(self) -> list[str]:
        """Every name that has a value, sorted."""
        return sorted(self._values)

    def series(self, name: str) -> list[tuple[int, Any]]:
        """(round_id, value) of every round that has `name`, set-up (-1) and closing message included."""
        return sorted(self._values.get(name, {}).items(), key=lambda item: item[0])

    def last(self, name: str) -> Any:
        """The value of the latest round that has `name`; None where none has."""
        series = self.series(name)
        return series[-1][1] if series else None

    def at(self, name: str, round_id: int) -> Any:
        """The value of `name` in one round, or None."""
        return self._values.get(name, {}).get(round_id)


def read_events(path: Path) -> list[Event]:
    """Every event in a JSON-lines file, in order. A last line that a crash cut short is left out.

    Raises:
        DataError: the file cannot be read, or another line than the last is broken.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(
            f"events file {path} cannot be read: {error.strerror}; a run writes it, so check the run folder"
        ) from error
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    events: list[Event] = []
    for number, line in numbered:
        try:
            event = json.loads(line)
        except ValueError as error:
            if number == numbered[-1][0]:
                break
            raise DataError(
                f"{path}, line {number} is no JSON ({error}); restore the file or delete that line"
            ) from error
        if not isinstance(event, dict) or not isinstance(event.get(ROUND_ID), int):
            raise DataError(f"{path}, line {number} is no event: expected an object with an integer {ROUND_ID!r}")
        events.append(event)
    return events


def plain(value: object, *, name: str) -> Any:
    """`value` as JSON can hold it: numpy becomes numbers and lists, NaN and infinities become null."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, np.generic):
        return plain(value.item(), name=name)
    if isinstance(value, np.ndarray):
        return plain(value.tolist(), name=name)
    if isinstance(value, Mapping):
        return {str(key): plain(inner, name=name) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, name=name) for inner in value]
    raise TypeError(f"event {name!r} holds a {type(value).__name__}; emit numbers, numpy arrays or lists of them")


@final
class _Lines:
    """One append-only file of whole lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise cannot_write(path, error) from error
        whole = path.read_bytes().rfind(b"\n") + 1
        if whole < self._length():
            self.cut(whole)

    def append(self, line: bytes) -> None:
        start, rest = self._length(), line
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            self.cut(start)
            raise cannot_write(self.path, error) from error

    def durable_length(self) -> int:
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise cannot_write(self.path, error) from error
        return self._length()

    def check_end(self, length: int) -> None:
        if not 0 <= length <= self._length():
            raise StateError(
                f"{self.path} has {self._length()} bytes, but the checkpoint was made when it had {length}; "
                "it was changed since: restore it, or start a new run"
            )
        if length:
            with self.path.open("rb") as file:
                file.seek(length - 1)
                if file.read(1) != b"\n":
                    raise StateError(
                        f"{self.path}: no line ends at byte {length}, where the checkpoint was made; start a new run"
                    )

    def cut(self, length: int) -> None:
        try:
            self._file.truncate(length)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def close(self) -> None:
        self._file.close()

    def _length(self) -> int:
        return os.fstat(self._file.fileno()).st_size

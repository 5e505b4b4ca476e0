"""sweep.json: what a folder of cells was meant to hold, written by the sweep and read by its comparison."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedkd.errors import ConfigError, DataError
from fedkd.files import write_atomic
from fedkd.lookup import nearest

SEED = "seed"
MAIN_FIGURE = "metric_mean_final"
NOTE_SCHEMA = 1
_FILE = "sweep.json"
_FIELDS = ("value", "sd", "source", "note", "figure")


@dataclass(frozen=True, eq=False, kw_only=True)
class Published:
    """A figure that others printed.

    Attributes:
        labels: axis -> value of the settings that it stands beside; an axis that is not named may have any value.
        value: in the units of the figure, so an accuracy is 0..1.
        note: what differs from our setting.
        figure: key of the summary that it is compared with.
    """

    labels: Mapping[str, str]
    value: float
    source: str
    sd: float | None = None
    note: str = ""
    figure: str = MAIN_FIGURE

    def belongs_to(self, labels: Mapping[str, str]) -> bool:
        """Whether it stands beside the setting with these labels."""
        return all(labels.get(axis) == label for axis, label in self.labels.items())

    @classmethod
    def parse(cls, entry: Mapping[str, Any], axes: Iterable[str]) -> Published:
        """From one flat table: labels by axis beside `value`, `source` and, as wanted, `sd`, `note` and `figure`.

        Raises:
            ConfigError: a key is neither an axis nor one of these, or `value` or `source` is missing or malformed.
        """
        names = [axis for axis in axes if axis != SEED]
        for key in entry:
            if key not in names and key not in _FIELDS:
                expected = (*names, *_FIELDS)
                raise ConfigError(
                    f"a published figure has a key {key!r}{nearest(key, expected)} Expected: {', '.join(expected)}",
                    key="published",
                )
        if not _is_number(entry.get("value")) or not str(entry.get("source", "")).strip():
            raise ConfigError(
                f"the published figure {dict(entry)!r} needs a number `value` and a `source`; add them", key="published"
            )
        sd = entry.get("sd")
        if sd is not None and not _is_number(sd):
            raise ConfigError(f"the published figure {dict(entry)!r} has an `sd` that is no number", key="published")
        return cls(
            labels={axis: str(entry[axis]) for axis in names if axis in entry},
            value=float(entry["value"]),
            sd=None if sd is None else float(sd),
            source=str(entry["source"]).strip(),
            note=str(entry.get("note", "")).strip(),
            figure=str(entry.get("figure", MAIN_FIGURE)),
        )

    def flat(self) -> dict[str, Any]:
        """What `parse` reads."""
        rest = {"value": self.value, "sd": self.sd, "source": self.source, "note": self.note, "figure": self.figure}
        return {**self.labels, **{key: value for key, value in rest.items() if value not in (None, "")}}


@dataclass(frozen=True, eq=False, kw_only=True)
class SweepNote:
    """What the comparison has to know beside the cells.

    Attributes:
        axes: axis -> labels of its values, both in the order of the plan; every combination is a cell.
        command: what a person types to measure the cells again; "" where nobody noted it.
    """

    title: str
    axes: Mapping[str, Sequence[str]]
    published: Sequence[Published] = field(default=())
    command: str = ""

    @classmethod
    def of_plan(
        cls,
        title: str,
        cells: Iterable[Mapping[str, str]],
        *,
        published: Iterable[Mapping[str, Any]] = (),
        command: str = "",
    ) -> SweepNote:
        """The note of a plan, given the labels of each of its cells.

        Raises:
            ConfigError: a published figure is malformed.
        """
        axes: dict[str, dict[str, None]] = {}
        for labels in cells:
            for axis, label in labels.items():
                axes.setdefault(axis, {})[label] = None
        return cls(
            title=title,
            axes={axis: tuple(found) for axis, found in axes.items()},
            published=tuple(Published.parse(entry, axes) for entry in published),
            command=command,
        )

    def write(self, folder: Path) -> Path:
        """Write sweep.json into the folder of a sweep; returns its path."""
        tree = {
            "schema": NOTE_SCHEMA,
            "title": self.title,
            "axes": {axis: list(found) for axis, found in self.axes.items()},
            "published": [each.flat() for each in self.published],
            "command": self.command,
        }
        path = folder / _FILE
        write_atomic(path, (json.dumps(tree, indent=1, allow_nan=False) + "\n").encode())
        return path

    @classmethod
    def read(cls, folder: Path) -> SweepNote | None:
        """What `write` wrote; None where the folder has no sweep.json.

        Raises:
            DataError: the file is something else, or of another version.
        """
        path = folder / _FILE
        try:
            tree = json.loads(path.read_bytes())
            if tree["schema"] != NOTE_SCHEMA:
                raise DataError(f"{path} has schema {tree['schema']!r}, expected {NOTE_SCHEMA}; run the sweep again")
            axes = {str(axis): tuple(map(str, found)) for axis, found in tree["axes"].items()}
            return cls(
                title=str(tree["title"]),
                axes=axes,
                published=tuple(Published.parse(entry, axes) for entry in tree["published"]),
                command=str(tree["command"]),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
            raise DataError(f"{path} does not describe a sweep ({error}); run the sweep again to write it") from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")

"""Cells by setting and seed: the rows, the columns, and what failed or is not there."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from fedkd.errors import DataError
from fedkd.report.cells import CELLS, CellResult
from fedkd.report.compare.note import SEED, SweepNote

ALL = "all"  # the row of a sweep over nothing but seeds
SIDE_BY_SIDE = 5  # columns of a table that fit a page
NO_SEED = "0"

_T = TypeVar("_T")
Column: TypeAlias = tuple[str, ...]  # labels of the axes beside the first and the seed


@dataclass(frozen=True)
class Block:
    """Columns side by side: what they share, if anything, and how many of their labels that takes off their heads."""

    title: str
    columns: tuple[Column, ...]
    shared: int


@dataclass(frozen=True)
class Problem:
    """A cell, or a file in place of one, without figures."""

    where: str
    error: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Grid:
    """What a folder holds.

    Attributes:
        row_axis: the first axis, what is compared; "" where only the seed is varied.
        cells: (row, column, seed) -> the cell, also a failed one.
        missing: planned and not there.
        problems: failed cells and unreadable files, in order.
    """

    note: SweepNote
    row_axis: str
    column_axes: tuple[str, ...]
    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    seeds: tuple[str, ...]
    cells: Mapping[tuple[str, Column, str], CellResult]
    missing: tuple[tuple[str, Column, str], ...]
    problems: tuple[Problem, ...]

    def done(self, row: str, column: Column) -> dict[str, CellResult]:
        """Seed -> cell of those of a setting that have figures, in the order of the seeds."""
        found = {seed: self.cells.get((row, column, seed)) for seed in self.seeds}
        return {seed: cell for seed, cell in found.items() if cell is not None and cell.is_done}

    def failed(self, row: str, column: Column) -> tuple[str, ...]:
        """Seeds of a setting whose cell failed."""
        found = {seed: self.cells.get((row, column, seed)) for seed in self.seeds}
        return tuple(seed for seed, cell in found.items() if cell is not None and not cell.is_done)

    def labels(self, row: str, column: Column) -> dict[str, str]:
        """Axis -> label of a setting."""
        first = {self.row_axis: row} if self.row_axis else {}
        return {**first, **dict(zip(self.column_axes, column, strict=True))}

    def parts(self, column: Column) -> tuple[str, ...]:
        """A column's labels as heads: a bare number or truth value names its axis, `hidden=64`; words stand alone."""
        return tuple(
            label if speaks(label) else f"{axis.rpartition('.')[2]}={label}"
            for axis, label in zip(self.column_axes, column, strict=True)
        )

    def title(self, column: Column) -> str:
        """A column in one line; "" for the only one of a sweep over nothing but methods."""
        return " · ".join(self.parts(column))

    @property
    def all_done(self) -> list[CellResult]:
        """Every cell with figures, in the order of rows, columns and seeds."""
        return [cell for row in self.rows for column in self.columns for cell in self.done(row, column).values()]


def read_grid(folder: Path) -> Grid:
    """The grid of a sweep's folder; what cannot be read is a problem of the grid, never an error.

    Raises:
        DataError: there are no cells at all, or sweep.json is broken.
    """
    paths = sorted((folder / CELLS).glob("*.json"))
    note = SweepNote.read(folder)
    if not paths and note is None:
        raise DataError(f"{folder} has no cells/*.json; give the folder of a sweep, or run one first")
    cells, problems = [], []
    for path in paths:
        try:
            cells.append(CellResult.read(path))
        except DataError as error:
            problems.append(Problem(path.name, str(error)))
    return make_grid(cells, note or _note_of(cells, folder.resolve().name), problems=problems)


def make_grid(cells: Sequence[CellResult], note: SweepNote, *, problems: Iterable[Problem] = ()) -> Grid:
    """Sort the cells into rows, columns and seeds; cells of other axes than the note's are problems."""
    axes = [axis for axis in note.axes if axis != SEED]
    row_axis, column_axes = (axes[0], tuple(axes[1:])) if axes else ("", ())
    found: dict[tuple[str, Column, str], CellResult] = {}
    strange = []
    for cell in cells:
        if {*cell.labels, SEED} != {*axes, SEED}:
            told = f"its axes are {', '.join(cell.labels)}, those of the sweep {', '.join(note.axes)}; delete the file"
            strange.append(Problem(name_of(cell.labels), told))
            continue
        column = tuple(cell.labels[axis] for axis in column_axes)
        found[cell.labels.get(row_axis, ALL), column, cell.labels.get(SEED, NO_SEED)] = cell
    rows = _ordered(note.axes.get(row_axis, (ALL,)), (row for row, _, _ in found))
    seeds = _ordered(note.axes.get(SEED, (NO_SEED,)), (seed for _, _, seed in found))
    planned_columns = tuple(itertools.product(*(tuple(note.axes[axis]) for axis in column_axes)))
    columns = _ordered(planned_columns, (column for _, column, _ in found))
    planned = itertools.product(note.axes.get(row_axis, (ALL,)), planned_columns, note.axes.get(SEED, (NO_SEED,)))
    places = itertools.product(rows, columns, seeds)
    failures = [found[place] for place in places if place in found and not found[place].is_done]
    return Grid(
        note=note,
        row_axis=row_axis,
        column_axes=column_axes,
        rows=rows,
        columns=columns,
        seeds=seeds,
        cells=found,
        missing=tuple(place for place in planned if place not in found),
        problems=(*(Problem(name_of(cell.labels), cell.error) for cell in failures), *strange, *problems),
    )


def name_of(labels: Mapping[str, str]) -> str:
    """A cell or setting in one line."""
    return ", ".join(f"{axis}={label}" for axis, label in labels.items()) or ALL


def blocks_of(grid: Grid) -> list[Block]:
    """The columns in blocks that fit a page: all, else by the label of their first axis, else as they come."""
    if len(grid.columns) <= SIDE_BY_SIDE:
        return [Block("", grid.columns, 0)]
    groups: dict[str, list[Column]] = {}
    for column in grid.columns:
        groups.setdefault(grid.parts(column)[0] if len(grid.column_axes) > 1 else "", []).append(column)
    return [
        Block(title, tuple(found[start : start + SIDE_BY_SIDE]), 1 if title else 0)
        for title, found in groups.items()
        for start in range(0, len(found), SIDE_BY_SIDE)
    ]


def speaks(label: str) -> bool:
    """Whether a reader understands a label without its axis: a word, no number and no truth value."""
    return label[:1].isalpha() and label not in ("True", "False")


def _ordered(planned: Iterable[_T], found: Iterable[_T]) -> tuple[_T, ...]:
    """What was planned in its order, then what is there beside it."""
    return tuple(dict.fromkeys([*planned, *found]))


def _note_of(cells: Sequence[CellResult], title: str) -> SweepNote:
    """A stand-in for an absent sweep.json. Cells keep no order of axes: method or preset is first, the rest by name."""
    axes: dict[str, list[str]] = {}
    for axis in sorted({axis for cell in cells for axis in cell.labels}, key=_rank):
        axes[axis] = sorted({cell.labels[axis] for cell in cells if axis in cell.labels}, key=_natural)
    return SweepNote(title=title, axes=axes)


def _rank(axis: str) -> tuple[int, str]:
    first = ("method", "preset", "experiment")
    return (first.index(axis) if axis in first else len(first) + (axis == SEED), axis)


def _natural(label: str) -> tuple[int, int, str]:
    """Numbers by their size, before words."""
    return (0, int(label), "") if label.isdecimal() else (1, 0, label)

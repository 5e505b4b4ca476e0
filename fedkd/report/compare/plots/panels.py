"""What the comparison's plots share: the view, one panel per column, and lines that stay the same in all of them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from fedkd.extras import need
from fedkd.report.cells import CellResult
from fedkd.report.compare.grid import Column, Grid, speaks
from fedkd.report.compare.table import Table
from fedkd.report.plots.canvas import WIDTH_IN, LineStyle, line_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_T = TypeVar("_T")
PANELS: Final = 6
_LETTERS_PER_IN: Final = 13
_ROW_IN: Final = 0.26  # of a method on an axis of methods


@dataclass(frozen=True, eq=False, kw_only=True)
class View:
    """What a plot of the comparison is drawn from: the grid and the table of the main figure."""

    grid: Grid
    table: Table

    def style(self, row: str) -> LineStyle:
        """The row's colour, dashes and marker, in every plot."""
        return line_style(self.grid.rows.index(row))

    @property
    def row_title(self) -> str:
        """What the rows are, where their labels alone do not tell."""
        return "" if all(map(speaks, self.grid.rows)) else self.grid.row_axis

    @property
    def metric(self) -> str:
        """The score in words."""
        return self.table.title.removeprefix("final ")

    @property
    def is_one_metric(self) -> bool:
        """Whether all columns are scored alike, so that their scores may share an axis."""
        return len({head.metric for head in self.table.heads if head.metric}) < 2

    def cells(self) -> Iterator[tuple[str, Column, CellResult]]:
        """Every cell with figures."""
        for row in self.grid.rows:
            for column in self.grid.columns:
                for cell in self.grid.done(row, column).values():
                    yield row, column, cell

    def columns_with(self, has: Callable[[CellResult], bool]) -> list[Column]:
        """Columns of which some cell has what a plot needs."""
        found = {column for _, column, cell in self.cells() if has(cell)}
        return [column for column in self.grid.columns if column in found]

    def label(self, row: str, column: Column) -> dict[str, object]:
        """The first fields of a CSV row."""
        return {self.grid.row_axis or "run": row, **dict(zip(self.grid.column_axes, column, strict=True))}


def shown(columns: Sequence[_T]) -> tuple[Sequence[_T], str]:
    """The columns that get a panel, and the words that a caption ends with where there are more."""
    if len(columns) <= PANELS:
        return columns, ""
    return columns[:PANELS], f" Shown: the first {PANELS} of {len(columns)} columns; the CSV has them all."


def panels(
    titles: Sequence[str], *, height_in: float, legend_rows: int, share_y: bool = True, share_x: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with one panel per title, at most three side by side, and room for a legend on top."""
    across = min(len(titles), 2 if len(titles) in (2, 4) else 3)
    lines = math.ceil(len(titles) / across)
    titles = [wrapped(title, across) for title in titles]
    deepest = max(title.count("\n") + 1 for title in titles)
    figure = new_figure(0.45 + 0.22 * legend_rows + lines * (height_in + 0.17 * deepest))
    grid = figure.subplots(lines, across, squeeze=False, sharey=share_y, sharex=share_x)
    for axes, title in zip(grid.flat, titles, strict=False):
        axes.set_title(title, size=10)
        axes.tick_params(labelsize=9, labelbottom=True)
    for axes in list(grid.flat)[len(titles) :]:
        axes.set_visible(False)
    return figure, list(grid.flat)[: len(titles)]


def wrapped(text: str, across: int = 1) -> str:
    """Text in lines that fit one of `across` panels."""
    width = int(WIDTH_IN / across * _LETTERS_PER_IN) - 6
    lines = [""]
    for part in re.findall(r"[^ _(,=]*[ _(,=]?", text):  # labels are made of names, brackets and pairs
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip(" ") for line in lines)


def rows_height_in(rows: Sequence[str], lanes: int = 1) -> float:
    """The height of a panel with an axis of methods, each with so many marks above each other."""
    lines = 1 + max(wrapped(row, 4).count("\n") for row in rows)
    return 0.55 + max(_ROW_IN, 0.1 * lanes, 0.16 * lines) * len(rows)


def rows_axis(axes: Sequence[Axes], rows: Sequence[str], *, title: str) -> None:
    """The common axis of methods of all panels, the first on top."""
    for each in axes:
        each.set_yticks(range(len(rows)), [wrapped(row, 4) for row in rows])
        each.set_ylim(len(rows) - 0.4, -0.6)
        each.tick_params(axis="y", length=0)
    leftmost(axes, title)


def leftmost(axes: Sequence[Axes], label: str) -> None:
    """Name the y axis once per line of panels."""
    for each in axes:
        spot = each.get_subplotspec()
        if spot is not None and spot.is_first_col():
            each.set_ylabel(label)


def legend(
    figure: Figure, axes: Sequence[Axes], labels: Sequence[str], *, title: str = "", length: float = 2.8
) -> None:
    """One legend on top for all panels: those of the labels that are drawn, in the order given."""
    found: dict[str, Any] = {}
    for each in axes:
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    drawn = [label for label in labels if label in found]
    figure.legend(
        [found[label] for label in drawn],
        drawn,
        loc="outside upper left",
        ncols=legend_columns(drawn),
        handlelength=length,
        title=title or None,
        alignment="left",
    )


def legend_columns(labels: Sequence[str]) -> int:
    """How many labels stand side by side; matplotlib fills one column after the other."""
    room = WIDTH_IN * _LETTERS_PER_IN
    for columns in range(min(5, len(labels)), 1, -1):
        widths = [max(map(len, some)) for some in np.array_split(np.array(labels, dtype=object), columns)]
        if sum(widths) + 8 * columns <= room:
            return columns
    return 1


def legend_lines(labels: Sequence[str]) -> int:
    """How many lines a legend of these labels has."""
    return math.ceil(len(labels) / legend_columns(labels))


def ticks(axes: Axes, *, x: int = 4) -> None:
    """Few ticks on the x axis of a small panel."""
    axes.xaxis.set_major_locator(need("matplotlib.ticker", extra="viz", what="plotting").MaxNLocator(x))


def mean(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return sum(values) / len(values) if values else None

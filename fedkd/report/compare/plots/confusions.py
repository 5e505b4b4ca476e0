"""What each method takes for what."""

from __future__ import annotations

import math

import numpy as np

from fedkd.extras import need
from fedkd.report.compare.grid import Column
from fedkd.report.compare.plots.panels import View, wrapped
from fedkd.report.plots.canvas import CELL_TEXT_UP_TO, NOT_THERE, Plot, Skipped, cells, new_figure
from fedkd.types import Array

NAME = "confusions"
TITLE = "Confusion matrix of each method"
PANELS = 8
TEXT_UP_TO = 4  # classes whose shares are written out in panels this small


def draw(view: View) -> Plot | Skipped:
    """Small matrices of the first column, and of the next ones while there is room."""
    grid = view.grid
    tables = {
        (row, column): table
        for column in grid.columns
        for row in grid.rows
        if (table := _shares(view, row, column)) is not None
    }
    if not tables:
        return Skipped(NAME, TITLE, "no cell has a confusion matrix (tasks without classes have none)")
    here = _shown(list(tables))
    lines = math.ceil(len(here) / 4)
    across = math.ceil(len(here) / lines)
    side = 7.6 / across
    has_columns = len({column for _, column in here}) > 1
    titles = [_title(row, grid.title(column) if has_columns else "", across) for row, column in here]
    deepest = 1 + max(title.count("\n") for title in titles)
    figure = new_figure(0.5 + lines * (min(side, 2.6) + 0.17 * deepest + 0.25))
    axes = figure.subplots(lines, across, squeeze=False)
    colors = need("matplotlib", extra="viz", what="plotting").colormaps["cividis"].with_extremes(bad=NOT_THERE)
    ticker = need("matplotlib.ticker", extra="viz", what="plotting")
    for each, place, title in zip(axes.flat, here, titles, strict=False):
        table = tables[place]
        each.imshow(np.ma.masked_invalid(table), cmap=colors, vmin=0.0, vmax=1.0)
        each.set_title(title, size=9)
        each.spines[:].set_visible(False)
        each.tick_params(labelsize=8, length=0)
        for axis in (each.xaxis, each.yaxis):
            axis.set_major_locator(
                ticker.FixedLocator(range(len(table)))
                if len(table) <= CELL_TEXT_UP_TO
                else ticker.MaxNLocator(5, integer=True)
            )
        if len(table) <= TEXT_UP_TO:
            for (i, j), share in np.ndenumerate(table):
                ink = "#000000" if share > 0.55 else "#ffffff"
                each.text(j, i, "" if np.isnan(share) else f"{share:.2f}", ha="center", va="center", size=8, color=ink)
    for each in list(axes.flat)[len(here) :]:
        each.set_visible(False)
    bar = figure.colorbar(
        axes.flat[0].images[0], ax=axes, label="share of the true class", pad=0.015, aspect=30, fraction=0.04
    )
    bar.outline.set_visible(False)
    figure.supxlabel("predicted class", size=10)
    figure.supylabel("true class", size=10)
    title = TITLE if has_columns or not grid.column_axes else f"{TITLE}, {grid.title(here[0][1])}"
    caption = "Counts of all clients and seeds together, each row divided by its sum: a bright diagonal is right."
    if len(here) < len(tables):
        caption += f" Shown: {len(here)} of {len(tables)} settings; the CSV has them all."
    rows = [
        {**view.label(row, column), **cell}
        for (row, column), table in tables.items()
        for cell in cells(table, row="true", column="predicted", value="share")
    ]
    return Plot(NAME, title, caption, figure, rows)


def _shares(view: View, row: str, column: Column) -> Array | None:
    """Rows that sum to one; NaN for a class without samples. None where the seeds have no matrix of one size."""
    found = [np.array(cell.confusion, dtype=float) for cell in view.grid.done(row, column).values() if cell.confusion]
    if not found or len({table.shape for table in found}) > 1:
        return None
    counts = np.sum(found, axis=0)
    totals = counts.sum(axis=1, keepdims=True)
    shares: Array = np.where(totals > 0, counts / np.where(totals > 0, totals, 1.0), np.nan)
    return shares


def _shown(places: list[tuple[str, Column]]) -> list[tuple[str, Column]]:
    """The first column's, and whole further columns while they fit."""
    by_column: dict[Column, list[tuple[str, Column]]] = {}
    for row, column in places:
        by_column.setdefault(column, []).append((row, column))
    first, *others = by_column.values()
    here = first[:PANELS]
    for group in others:
        if len(here) + len(group) > PANELS:
            break
        here += group
    return here


def _title(row: str, column: str, across: int) -> str:
    """The method and, where panels differ in it, the column."""
    return "\n".join(wrapped(part, across) for part in (row, column) if part)

"""Every method in every column at one glance."""

from __future__ import annotations

import numpy as np

from fedkd.report.compare.grid import Grid
from fedkd.report.compare.plots.panels import View, rows_height_in, wrapped
from fedkd.report.plots.canvas import Plot, Skipped, heat_map, new_figure

NAME = "score_map"
ROOM_LETTERS = 84  # of text that stand side by side under the map


def draw(view: View) -> Plot | Skipped:
    """Rows by columns; bright is high, also where lower is better."""
    title = f"{view.table.title.capitalize()} of every setting"
    grid = view.grid
    means = [[view.table.entries[row, column].mean for column in grid.columns] for row in grid.rows]
    values = np.array([[np.nan if mean is None else mean for mean in line] for line in means])
    if np.isnan(values).all():
        return Skipped(NAME, title, "no cell has figures")
    if values.size < 2:
        return Skipped(NAME, title, "there is one setting only")
    if not view.is_one_metric:
        return Skipped(NAME, title, "columns have different metrics, so one colour scale does not fit them")
    names, is_slanted = _names(grid)
    below = 0.05 * max(map(len, names)) if is_slanted else 0.17 * (1 + max(name.count("\n") for name in names))
    figure = new_figure(rows_height_in(grid.rows) + below + 0.2)
    axes = figure.subplots()
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    span = high - low or 1.0
    digits = 3 if high < 10 and len(names) <= 10 else 2 if high < 100 else 0
    heat_map(
        figure, axes, values, label=view.table.title, low=low - 0.02 * span, high=high + 0.02 * span, digits=digits
    )
    axes.set_yticks(range(len(grid.rows)), [wrapped(row, 4) for row in grid.rows])
    axes.set_xticks(range(len(names)), names)
    if is_slanted:
        for text in axes.get_xticklabels():
            text.set(rotation=35, ha="right", rotation_mode="anchor")
    axes.set_ylabel(view.row_title)
    axes.tick_params(length=0)
    rows = [
        {**view.label(row, column), "mean": mean}
        for row, line in zip(grid.rows, means, strict=True)
        for column, mean in zip(grid.columns, line, strict=True)
    ]
    caption = "Means over clients and seeds; grey is a setting without figures. Bright is high."
    if {head.higher_is_better for head in view.table.heads} == {False}:
        caption = caption.replace("Bright is high.", "Dark is better here: lower is.")
    return Plot(NAME, title, caption, figure, rows)


def _names(grid: Grid) -> tuple[list[str], bool]:
    """The columns' titles under them, a line per axis where these fit, else slanted on one line."""
    parts = [grid.parts(column) for column in grid.columns]
    if all(len(part) <= ROOM_LETTERS / len(parts) for each in parts for part in each):
        return ["\n".join(each) for each in parts], False
    return [grid.title(column) for column in grid.columns], True

"""The score by round: a line per method, a band of one standard deviation over seeds, a panel per column."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

import fedkd.metric_names as m
from fedkd.report.cells import CellResult
from fedkd.report.compare.plots.panels import View, leftmost, legend, legend_lines, panels, shown
from fedkd.report.plots.canvas import GRID, Plot, Skipped, round_axis

NAME = "score_by_round"
BANDS_UP_TO = 8  # methods in a panel; more bands than this hide each other


def draw(view: View) -> Plot | Skipped:
    """Lines with bands."""
    title = f"{view.metric.capitalize()} by round"
    columns = view.columns_with(lambda cell: bool(cell.series.get(m.SCORE_MEAN)))
    if not columns:
        return Skipped(NAME, title, "no cell has a score by round")
    rows = view.grid.rows
    lines = {(row, column): _points(view.grid.done(row, column)) for row in rows for column in columns}
    here, note = shown(columns)
    figure, axes = panels(
        [view.grid.title(column) for column in here],
        height_in=2.7,
        legend_rows=legend_lines(rows) + bool(view.row_title),
        share_y=view.is_one_metric,
    )
    has_bands = len(rows) <= BANDS_UP_TO and len(view.grid.seeds) > 1
    for each, column in zip(axes, here, strict=True):
        last = 0
        for row in rows:
            points = lines[row, column]
            if not points:
                continue
            style = view.style(row)
            x = np.array([round_id + 1 for round_id in points])
            mean, sd = (np.array([found[i] for found in points.values()]) for i in (0, 1))
            if has_bands:
                each.fill_between(x, mean - sd, mean + sd, color=style.color, alpha=0.16, lw=0)
            every = max(1, len(x) // 8)
            # Markers start at different rounds, so that lines which lie on each other can be told apart.
            marks = (rows.index(row) * max(1, every // 3) % every, every)
            each.plot(
                x, mean, color=style.color, ls=style.line, lw=1.5, marker=style.marker, ms=4, markevery=marks, label=row
            )
            last = max(last, int(x[-1]) - 1)
        each.grid(axis="y", color=GRID)
        round_axis(each, last=last, config={"rounds": last + 1})
    leftmost(axes, view.metric)
    legend(figure, axes, rows, title=view.row_title)
    if len(view.grid.seeds) < 2:
        band = "There is one seed, so no spread."
    elif has_bands:
        band = "Bands are one sample standard deviation over seeds."
    else:
        band = f"With more than {BANDS_UP_TO} methods the bands over seeds are left out; the CSV has the deviations."
    caption = f"Mean {view.metric} over clients and seeds; the last point is the closing message. {band}{note}"
    return Plot(
        NAME,
        title,
        caption,
        figure,
        [
            {**view.label(row, column), "round_id": r, "mean": mean, "sd": None if n < 2 else sd, "seeds": n}
            for (row, column), points in lines.items()
            for r, (mean, sd, n) in points.items()
        ],
    )


def _points(cells: Mapping[str, CellResult]) -> dict[int, tuple[float, float, int]]:
    """Round -> mean, sample standard deviation (0 for one seed) and number of seeds."""
    by_round: dict[int, list[float]] = {}
    for cell in cells.values():
        for round_id, value in cell.series.get(m.SCORE_MEAN, ()):
            by_round.setdefault(int(round_id), []).append(value)
    return {
        r: (float(np.mean(v)), float(np.std(v, ddof=1)) if len(v) > 1 else 0.0, len(v))
        for r, v in sorted(by_round.items())
    }

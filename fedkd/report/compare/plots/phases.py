"""Where the time goes."""

from __future__ import annotations

from fedkd.report.cells import CellResult
from fedkd.report.compare.plots.panels import View, legend, mean, panels, rows_axis, rows_height_in, shown, ticks
from fedkd.report.plots.canvas import GRID, NOT_THERE, SERIES, Plot, Skipped
from fedkd.report.units import format_seconds

NAME = "seconds_by_phase"
TITLE = "Time of a run by phase"
PHASES = (
    ("seconds_train", "training", SERIES[0]),
    ("seconds_filter", "fitting filters", SERIES[1]),
    ("seconds_aggregate", "aggregation", SERIES[2]),
    ("rest", "rest", NOT_THERE),
)


def draw(view: View) -> Plot | Skipped:
    """Stacked bars, means over seeds."""
    columns = view.columns_with(lambda cell: cell.summary.get("seconds_total") is not None)
    if not columns:
        return Skipped(NAME, TITLE, "no cell has clock readings")
    grid = view.grid
    here, note = shown(columns)
    means = {(row, column): _means(view, row, column) for row in grid.rows for column in columns}
    figure, axes = panels(
        [view.grid.title(column) for column in here], height_in=rows_height_in(grid.rows), legend_rows=1
    )
    for each, column in zip(axes, here, strict=True):
        start = [0.0] * len(grid.rows)
        for key, label, color in PHASES:
            lengths = [means[row, column].get(key, 0.0) for row in grid.rows]
            each.barh(range(len(grid.rows)), lengths, left=start, height=0.66, color=color, lw=0, label=label)
            start = [a + b for a, b in zip(start, lengths, strict=True)]
        for place, total in enumerate(start):
            if total:
                each.annotate(
                    format_seconds(total),
                    (total, place),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                    size=8,
                )
        each.set_xlim(0, 1.25 * max(max(start), 1e-9))
        each.grid(axis="x", color=GRID)
        each.set_xlabel("seconds")
        ticks(each)
    rows_axis(axes, grid.rows, title=view.row_title)
    legend(figure, axes, [label for _, label, _ in PHASES], length=1.6)
    caption = (
        "Wall-clock seconds of a cell, mean over seeds; training and filters are sums over clients, the rest is "
        "evaluation and transport. Cells that ran "
        f"side by side, or on different machines, slow each other or do not compare.{note}"
    )
    rows = [
        {**view.label(row, column), **{key: found.get(key) for key in ("seconds_total", *(key for key, *_ in PHASES))}}
        for (row, column), found in means.items()
    ]
    return Plot(NAME, TITLE, caption, figure, rows)


def _means(view: View, row: str, column: tuple[str, ...]) -> dict[str, float]:
    """By phase; nothing where no cell was timed."""
    timed = [_phases(cell) for cell in view.grid.done(row, column).values() if cell.summary.get("seconds_total")]
    return {key: mean([each[key] for each in timed]) or 0.0 for key in (timed[0] if timed else ())}


def _phases(cell: CellResult) -> dict[str, float]:
    total = float(cell.summary["seconds_total"])
    known = {key: float(cell.summary.get(key) or 0.0) for key, *_ in PHASES[:-1]}
    return {"seconds_total": total, **known, "rest": max(0.0, total - sum(known.values()))}

"""What the filters let through, and what that makes of the votes."""

from __future__ import annotations

from fedkd.report.compare.plots.panels import View, legend, mean, panels, rows_axis, rows_height_in, shown, ticks
from fedkd.report.plots.canvas import GRID, SERIES, Plot, Skipped

NAME = "filters"
TITLE = "Acceptance, purity and coverage"
MARKS = (
    ("accept_rate_own", "accepted, own", SERIES[0], "o", "full"),
    ("accept_rate_foreign", "accepted, foreign", SERIES[1], "X", "full"),
    ("purity", "purity", SERIES[2], "^", "full"),
    ("coverage", "coverage", SERIES[3], "s", "none"),
)


def draw(view: View) -> Plot | Skipped:
    """Four marks per method, each a mean over seeds."""
    columns = view.columns_with(lambda cell: any(cell.summary.get(key) is not None for key, *_ in MARKS))
    if not columns:
        return Skipped(NAME, TITLE, "no cell knows acceptance, purity or coverage")
    grid = view.grid
    here, note = shown(columns)
    figure, axes = panels(
        [view.grid.title(column) for column in here],
        height_in=rows_height_in(grid.rows, lanes=len(MARKS)),
        legend_rows=1,
    )
    means = {
        (row, column): {
            key: mean(
                [
                    float(cell.summary[key])
                    for cell in grid.done(row, column).values()
                    if cell.summary.get(key) is not None
                ]
            )
            for key, *_ in MARKS
        }
        for row in grid.rows
        for column in columns
    }
    for each, column in zip(axes, here, strict=True):
        for lane, (key, label, color, marker, fill) in enumerate(MARKS):
            # Each measure has a lane of its own within a method: values near one would lie on each other.
            places = [(means[row, column][key], place + 0.2 * (lane - 1.5)) for place, row in enumerate(grid.rows)]
            there = [(x, y) for x, y in places if x is not None]
            each.plot(
                [x for x, _ in there],
                [y for _, y in there],
                ls="none",
                marker=marker,
                ms=5,
                color=color,
                fillstyle=fill,
                label=label,
            )
        for place in range(1, len(grid.rows)):
            each.axhline(place - 0.5, color=GRID, lw=0.7, zorder=0)
        each.grid(axis="x", color=GRID)
        each.set_xlim(-0.03, 1.03)
        each.set_xlabel("share")
        ticks(each, x=5)
    rows_axis(axes, grid.rows, title=view.row_title)
    legend(figure, axes, [label for _, label, *_ in MARKS], length=1.2)
    caption = (
        "Means over clients, rounds and seeds. A good filter accepts own classes (near 1) and few foreign ones "
        "(near 0); purity is the share of votes by clients that hold the row's class, coverage the share of proxy "
        f"rows that somebody spoke for.{note}"
    )
    rows = [{**view.label(row, column), **found} for (row, column), found in means.items()]
    return Plot(NAME, TITLE, caption, figure, rows)

"""The score against how different the clients' data are."""

from __future__ import annotations

from collections.abc import Sequence

from fedkd.report.compare.grid import Column
from fedkd.report.compare.plots.panels import View, leftmost, legend, legend_lines, mean, panels, shown
from fedkd.report.plots.canvas import GRID, Plot, Skipped

NAME = "score_against_skew"
MEASURE = "js_divergence"
APART = 0.01  # skews nearer than this are one


def draw(view: View) -> Plot | Skipped:
    """A line per method through its partitions; a panel for each combination of the other axes."""
    title = f"{view.metric.capitalize()} against skew"
    skews = {column: skew for column in view.grid.columns if (skew := _skew(view, column)) is not None}
    if not skews:
        return Skipped(NAME, title, "no cell knows its skew (the data have no classes)")
    groups = {
        group: columns for group, columns in _groups(view, list(skews)).items() if _spread(skews, columns) > APART
    }
    if not groups:
        return Skipped(NAME, title, "all settings have the same skew")
    here, note = shown(list(groups))
    figure, axes = panels(
        here, height_in=2.9, legend_rows=legend_lines(view.grid.rows) + bool(view.row_title), share_y=view.is_one_metric
    )
    for each, group in zip(axes, here, strict=True):
        for row in view.grid.rows:
            points = [
                (skews[column], entry.mean, entry.sd or 0.0)
                for column in groups[group]
                if (entry := view.table.entries[row, column]).mean is not None
            ]
            if not points:
                continue
            style = view.style(row)
            each.errorbar(
                [skew for skew, _, _ in points],
                [score for _, score, _ in points],
                yerr=[sd for _, _, sd in points],
                color=style.color,
                ls=style.line,
                marker=style.marker,
                ms=5,
                lw=1.5,
                elinewidth=1.0,
                label=row,
            )
        each.grid(color=GRID)
        each.set_xlabel("Jensen-Shannon divergence")
        each.margins(x=0.05)
    leftmost(axes, view.metric)
    legend(figure, axes, view.grid.rows, title=view.row_title)
    caption = (
        "Skew is the Jensen-Shannon divergence of the clients' class mixes (0: all alike, 1: none shared), mean over "
        f"cells; bars are one sample standard deviation over seeds.{note}"
    )
    rows = [
        {**view.label(row, column), MEASURE: skews[column], "score": entry.mean, "sd": entry.sd, "seeds": entry.n}
        for columns in groups.values()
        for column in columns
        for row in view.grid.rows
        if (entry := view.table.entries[row, column]).mean is not None
    ]
    return Plot(NAME, title, caption, figure, rows)


def _skew(view: View, column: Column) -> float | None:
    found = [cell.summary.get("skew") for _, at, cell in view.cells() if at == column]
    return mean([float(skew[MEASURE]) for skew in found if skew and skew.get(MEASURE) is not None])


def _groups(view: View, columns: Sequence[Column]) -> dict[str, list[Column]]:
    """Columns that differ in the partition alone, by rising skew; all together where no axis is the partition."""
    moving = [i for i, axis in enumerate(view.grid.column_axes) if axis.partition(".")[0] == "partition"]
    found: dict[str, list[Column]] = {}
    for column in columns:
        rest = " · ".join(part for i, part in enumerate(view.grid.parts(column)) if i not in moving) if moving else ""
        found.setdefault(rest, []).append(column)
    return {rest: sorted(group, key=lambda column: _skew(view, column) or 0.0) for rest, group in found.items()}


def _spread(skews: dict[Column, float], columns: Sequence[Column]) -> float:
    values = [skews[column] for column in columns]
    return max(values) - min(values)

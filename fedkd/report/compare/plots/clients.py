"""How the score is spread over clients."""

from __future__ import annotations

import numpy as np

from fedkd.report.compare.plots.panels import View, panels, rows_axis, rows_height_in, shown, ticks
from fedkd.report.plots.canvas import GRID, INK, Plot, Skipped

NAME = "spread_over_clients"
DOTS_UP_TO = 40  # clients of a method, all seeds; more are a box alone


def draw(view: View) -> Plot | Skipped:
    """Boxes of the final scores of single clients, all seeds together."""
    title = f"Final {view.metric} of single clients"
    columns = view.columns_with(lambda cell: bool(cell.summary.get("metric_per_client")))
    if not columns:
        return Skipped(NAME, title, "no cell has final scores of single clients")
    grid = view.grid
    found: dict[tuple[str, tuple[str, ...]], list[tuple[str, int, float]]] = {
        (row, column): [
            (seed, client, float(score))
            for seed, cell in grid.done(row, column).items()
            for client, score in enumerate(cell.summary.get("metric_per_client") or ())
            if score is not None
        ]
        for row in grid.rows
        for column in columns
    }
    here, note = shown(columns)
    height_in = rows_height_in(grid.rows)
    figure, axes = panels(
        [view.grid.title(column) for column in here], height_in=height_in, legend_rows=0, share_x=view.is_one_metric
    )
    for each, column in zip(axes, here, strict=True):
        each.grid(axis="x", color=GRID)
        for place, row in enumerate(grid.rows):
            scores = [score for _, _, score in found[row, column]]
            if not scores:
                continue
            color = view.style(row).color
            line = {"color": color, "lw": 1.3}
            box = each.boxplot(
                scores,
                positions=[place],
                orientation="horizontal",
                widths=0.62,
                showfliers=len(scores) > DOTS_UP_TO,
                patch_artist=True,
                boxprops={**line, "facecolor": color},
                whiskerprops=line,
                capprops=line,
                medianprops={"color": INK, "lw": 1.8},
                flierprops={"marker": ".", "ms": 3, "mec": color, "mfc": color},
                manage_ticks=False,
            )
            box["boxes"][0].set_alpha(0.3)
            if len(scores) <= DOTS_UP_TO:
                apart = 0.24 * np.sin(2.4 * np.arange(len(scores)))  # the same each time
                each.plot(scores, place + apart, ls="none", marker=".", ms=3.5, color=color, alpha=0.8)
        each.set_xlabel(view.metric)
        ticks(each)
    rows_axis(axes, grid.rows, title=view.row_title)
    is_cost = {head.higher_is_better for head in view.table.heads} == {False}
    caption = (
        "A box holds the middle half of the clients of all seeds, its line is the median, whiskers reach to the last "
        f"client within one and a half boxes. {'Right' if is_cost else 'Left'} ends are the clients that a method "
        f"serves worst.{note}"
    )
    rows = [
        {**view.label(row, column), "seed": seed, "client": client, "score": score}
        for (row, column), values in found.items()
        for seed, client, score in values
    ]
    return Plot(NAME, title, caption, figure, rows)

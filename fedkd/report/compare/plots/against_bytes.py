"""The score against all that was uploaded, with the front of those that no other beats at both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedkd.extras import need
from fedkd.report.compare.grid import Column
from fedkd.report.compare.plots.panels import View, leftmost, legend, legend_lines, mean, panels, shown
from fedkd.report.plots.canvas import GRID, MUTED, Plot, Skipped
from fedkd.report.units import format_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "score_against_upload"
FRONT = "Pareto front"
STEPS = ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,))
NARROWEST = 4.0


@dataclass(frozen=True)
class Point:
    """A method in one column."""

    row: str
    sent: float
    score: float
    sd: float | None
    seeds: int


def draw(view: View) -> Plot | Skipped:
    """Points on a logarithmic axis; methods that upload nothing are lines."""
    title = f"{view.metric.capitalize()} against upload"
    columns = view.columns_with(lambda cell: bool(cell.summary.get("upload_bytes")))
    if not columns:
        return Skipped(NAME, title, "no cell uploaded anything")
    here, note = shown(columns)
    points = {column: _points(view, column) for column in columns}
    better = {head.column: head.higher_is_better for head in view.table.heads}
    fronts = {
        # What uploads nothing is no choice: `centralised`, the ceiling, would beat all others at once.
        column: front_of([p for p in points[column] if p.sent], higher_is_better=better[column] is not False)
        for column in columns
    }
    labels = [*view.grid.rows, FRONT]
    figure, axes = panels(
        [view.grid.title(column) for column in here],
        height_in=2.7,
        legend_rows=legend_lines(labels) + bool(view.row_title),
        share_y=view.is_one_metric,
    )
    for each, column in zip(axes, here, strict=True):
        each.set_xscale("log")
        # Lines first: matplotlib cannot place one on an axis that one point has left without a width.
        for point in sorted(points[column], key=lambda point: bool(point.sent)):
            _draw_point(each, view, point)
        if fronts[column]:
            _draw_front(each, fronts[column])
        _name_bytes(each, most=4 if len(here) > 2 else 6)
        each.grid(color=GRID)
    leftmost(axes, view.metric)
    legend(figure, axes, labels, title=view.row_title)
    caption = (
        "Bytes of all clients and rounds, without the set-up; bars are one sample standard deviation over seeds, "
        "dotted lines are methods that upload nothing. Of the others, those on the dashed line are beaten by none that "
        "uploads less."
        f"{note}"
    )
    rows = [
        {
            **view.label(point.row, column),
            "upload_bytes": point.sent,
            "score": point.score,
            "sd": point.sd,
            "seeds": point.seeds,
            "is_on_front": int(point in fronts[column]),
        }
        for column in columns
        for point in points[column]
    ]
    return Plot(NAME, title, caption, figure, rows)


def front_of(points: Sequence[Point], *, higher_is_better: bool) -> list[Point]:
    """The points that no other beats at bytes or score without losing at the other, the cheapest first."""
    sign = 1.0 if higher_is_better else -1.0
    best, found = float("-inf"), []
    for point in sorted(points, key=lambda each: (each.sent, -sign * each.score)):
        if sign * point.score > best:
            best = sign * point.score
            found.append(point)
    return found


def _points(view: View, column: Column) -> list[Point]:
    found = []
    for row in view.grid.rows:
        entry = view.table.entries[row, column]
        sent = [cell.summary.get("upload_bytes") for cell in view.grid.done(row, column).values()]
        total = mean([float(value) for value in sent if value is not None])
        if entry.mean is not None and total is not None:
            found.append(Point(row, total, entry.mean, entry.sd, entry.n))
    return found


def _draw_point(axes: Axes, view: View, point: Point) -> None:
    style = view.style(point.row)
    if not point.sent:
        axes.axhline(point.score, color=style.color, ls=":", lw=1.6, label=point.row)
        return
    axes.errorbar(
        point.sent,
        point.score,
        yerr=point.sd or 0.0,
        color=style.color,
        marker=style.marker,
        ms=7,
        mfc=style.color if style.line == "-" else "none",
        mew=1.5,
        ls="none",
        elinewidth=1.2,
        label=point.row,
        zorder=3,
    )


def _draw_front(axes: Axes, front: Sequence[Point]) -> None:
    """The front as steps, from the left edge of the panel to the right one."""
    axes.margins(x=0.12)
    low, high = _range(*axes.get_xlim())
    x = [*(max(point.sent, low) for point in front), high]
    y = [*(point.score for point in front), front[-1].score]
    axes.step(x, y, where="post", color=MUTED, ls="--", lw=1.4, label=FRONT, zorder=1)
    axes.set_xlim(low, high)


def _name_bytes(axes: Axes, *, most: int) -> None:
    ticker = need("matplotlib.ticker", extra="viz", what="plotting")
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _short(value)))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_locator(ticker.FixedLocator(round_bytes(*axes.get_xlim(), most=most)))
    axes.set_xlabel("upload, all rounds")


def _range(low: float, high: float) -> tuple[float, float]:
    """At least a factor `NARROWEST` from end to end, so that next to nothing does not look like much."""
    middle, apart = (low * high) ** 0.5, max(high / low, NARROWEST) ** 0.5
    return middle / apart, middle * apart


def round_bytes(low: float, high: float, *, most: int) -> list[float]:
    """Round numbers between the two: as many as there are up to `most`."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in STEPS:
        found = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(found) <= most:
            return found
    return found[:: math.ceil(len(found) / most)]


def _short(value: float) -> str:
    amount, unit = format_bytes(value).split()
    return f"{float(amount):g} {unit}"

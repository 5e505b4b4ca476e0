"""What all plots share: the look, the figure, the heat map, and figures as SVG or CSV text."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedkd.extras import need
from fedkd.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Plain text colours: the report swaps exactly these for its theme's, so nothing else may use them.
INK: Final = "#1f2328"
MUTED: Final = "#6a737d"
GRID: Final = "#dfe3e8"
PAPER: Final = "#fefefe"
SERIES: Final = ("#0072b2", "#d55e00", "#009e73", "#aa4499")  # told apart by colour-blind readers
# Okabe and Ito's, the light ones darkened until they stand out from white at 3:1; more lines than this get dashes.
PALETTE: Final = (*SERIES, "#a67c00", "#3d97d6", "#3d444d")
MARKERS: Final = "os^DvP*X<>phd8"
NOT_THERE: Final = "#9aa0a6"  # a heat map's cell without a value

TICKS_UP_TO = 40  # more clients or classes than this get no tick label each
CELL_TEXT_UP_TO = 16  # columns and rows of a heat map whose cells are written out
PICTURE_COLUMNS = 400  # wider heat maps have less than a few pixels for a column
WIDTH_IN = 9.0  # shown at 900 px, 10 pt text is 14 px high

STYLE: Final[Mapping[str, Any]] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": False,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "figure.facecolor": PAPER,
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "savefig.dpi": 200,  # of the pictures inside an SVG
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",  # text stays text: small, selectable, read aloud; any sans-serif font will do
    "svg.hashsalt": "fedkd",
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
}


@dataclass(frozen=True, eq=False)
class Plot:
    """A drawn figure with the numbers behind it."""

    name: str  # of its files
    title: str
    caption: str  # how to read it, one line
    figure: Figure
    rows: Sequence[Mapping[str, object]]  # of its CSV, equal keys


@dataclass(frozen=True)
class Skipped:
    """A plot that could not be drawn, and why."""

    name: str
    title: str
    reason: str


@dataclass(frozen=True)
class LineStyle:
    """How one line among many is told apart: by colour, dashes and marker, the last two also without colours."""

    color: str
    line: str
    marker: str


def line_style(number: int) -> LineStyle:
    """The style of line `number`: different for the first fourteen, then they come again."""
    dashes = ("-", "--")[number // len(PALETTE) % 2]
    return LineStyle(PALETTE[number % len(PALETTE)], dashes, MARKERS[number % len(MARKERS)])


@contextmanager
def look() -> Iterator[None]:
    """The look of all plots while it lasts, whatever the user's own matplotlib settings are; those come back after."""
    matplotlib = need("matplotlib", extra="viz", what="plotting")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def new_figure(height_in: float) -> Figure:
    """An empty figure of the common width; needs no backend and no display."""
    figure: Figure = need("matplotlib.figure", extra="viz", what="plotting").Figure(figsize=(WIDTH_IN, height_in))
    return figure


def to_svg(figure: Figure) -> str:
    """The figure as SVG text, the same for the same numbers."""
    buffer = io.StringIO()
    with look():
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return buffer.getvalue()


def to_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """The rows as CSV text with a header; None is an empty field."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def matrix(rows: Sequence[Any]) -> Array:
    """Equal-sized lists of numbers as one float array; null, and the list of a client that failed, become NaN."""
    shapes = {np.shape(row) for row in rows if row is not None}
    shape = max(shapes, key=len) if shapes else (0,)
    return np.array([np.full(shape, np.nan) if row is None else np.array(row, dtype=float) for row in rows])


def cells(values: Array, *, row: str, column: str, value: str) -> list[dict[str, object]]:
    """A matrix as CSV rows, one per cell."""
    return [
        {row: i, column: j, value: None if np.isnan(cell) else float(cell)}
        for i, line in enumerate(values)
        for j, cell in enumerate(line)
    ]


def number_ticks(axes: Axes, *, x: int | None = None, y: int | None = None) -> None:
    """Tick labels 0..count-1 on an axis of clients or classes: each where they fit, else a few round numbers."""
    ticker = need("matplotlib.ticker", extra="viz", what="plotting")
    for axis, count in ((axes.xaxis, x), (axes.yaxis, y)):
        if count is not None:
            axis.set_tick_params(length=0 if count <= TICKS_UP_TO else 3)
            every = 1 if count <= TICKS_UP_TO // 2 or (axis is axes.xaxis and count <= TICKS_UP_TO) else None
            axis.set_major_locator(
                ticker.FixedLocator(range(count)) if every else ticker.MaxNLocator(8, integer=True, prune=None)
            )


def heat_map(
    figure: Figure,
    axes: Axes,
    values: Array,
    *,
    label: str,
    low: float = 0.0,
    high: float | None = 1.0,
    digits: int | None = None,
) -> None:
    """Draw `values` (rows, columns) as a heat map with a colour bar; small ones get their numbers written in.

    The colour scale runs from `low` to `high`, or to the largest value. Numbers have two digits where the scale has an
    end and none elsewhere, unless `digits` says otherwise.
    """
    colors = need("matplotlib", extra="viz", what="plotting").colormaps["cividis"].with_extremes(bad=NOT_THERE)
    top = high if high is not None else max(float(np.nanmax(values, initial=0.0)), 1.0)
    rows, columns = values.shape
    picture: Array = np.ma.masked_invalid(values)
    if columns > PICTURE_COLUMNS:  # smoothed sideways then; the copies keep that from blending rows
        picture = np.repeat(picture, math.ceil(PICTURE_COLUMNS / rows), axis=0)
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    image = axes.imshow(picture, cmap=colors, vmin=low, vmax=top, aspect="auto", extent=extent)
    bar = figure.colorbar(image, ax=axes, label=label, pad=0.015, aspect=30, fraction=0.05)
    bar.outline.set_visible(False)
    axes.spines[:].set_visible(False)
    number_ticks(axes, x=columns, y=rows)
    if max(rows, columns) <= CELL_TEXT_UP_TO:
        digits = digits if digits is not None else 2 if high is not None else 0
        middle = low + 0.55 * (top - low)
        for (i, j), value in np.ndenumerate(values):
            text = "" if np.isnan(value) else f"{value:.{digits}f}"
            axes.text(j, i, text, ha="center", va="center", size=9, color="#000000" if value > middle else "#ffffff")


def heat_height_in(rows: int) -> float:
    """A height in which `rows` rows of a heat map stay readable."""
    return float(np.clip(1.1 + 0.28 * rows, 2.6, 6.5))


def round_axis(axes: Axes, *, last: int, config: Mapping[str, Any]) -> None:
    """Name an axis of rounds, which people count from one, up to round_id `last`."""
    ticker = need("matplotlib.ticker", extra="viz", what="plotting")
    closes = last >= int(config.get("rounds", last + 1))
    axes.set_xlabel(f"round ({last + 1} is the closing message)" if closes else "round")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(12, integer=True, min_n_ticks=1))
    axes.margins(x=0.02)

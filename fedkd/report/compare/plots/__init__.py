"""The plots of a comparison, one small file each: grid and table in, figure and its numbers out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from fedkd.extras import need
from fedkd.files import cannot_write, write_atomic
from fedkd.report.compare.plots import (
    against_bytes,
    against_skew,
    by_round,
    clients,
    confusions,
    filtering,
    heat,
    phases,
)
from fedkd.report.compare.plots.panels import View
from fedkd.report.plots.canvas import Plot, Skipped, look, to_csv, to_svg

Draw: TypeAlias = Callable[[View], Plot | Skipped]

PLOTS: Sequence[Draw] = (  # in the order of the page
    heat.draw,
    by_round.draw,
    against_bytes.draw,
    against_skew.draw,
    clients.draw,
    filtering.draw,
    confusions.draw,
    phases.draw,
)


def draw_plots(view: View) -> tuple[list[Plot], list[Skipped]]:
    """Every plot that the cells have the numbers for, and the others with the reason."""
    need("matplotlib", extra="viz", what="plotting")
    with look():
        drawn = [draw(view) for draw in PLOTS]
    return [d for d in drawn if isinstance(d, Plot)], [d for d in drawn if isinstance(d, Skipped)]


def write_plots(view: View, folder: Path) -> tuple[list[tuple[Plot, str]], list[Skipped]]:
    """Write <name>.svg and <name>.csv of every plot into `folder`; returns plots with their SVG, and what has none."""
    plots, skipped = draw_plots(view)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    drawn = [(plot, to_svg(plot.figure)) for plot in plots]
    for plot, svg in drawn:
        write_atomic(folder / f"{plot.name}.svg", svg.encode())
        write_atomic(folder / f"{plot.name}.csv", to_csv(plot.rows).encode())
    return drawn, skipped

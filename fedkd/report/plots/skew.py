"""Who holds what: private training samples by client and class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import fedkd.metric_names as m
from fedkd.report.events import History
from fedkd.report.plots.canvas import (
    GRID,
    SERIES,
    TICKS_UP_TO,
    Plot,
    Skipped,
    cells,
    heat_height_in,
    heat_map,
    matrix,
    new_figure,
    number_ticks,
)

NAME = "partition"
TITLE = "Private samples of each client, by class"


def draw(history: History, _config: Mapping[str, Any]) -> Plot | Skipped:
    """Bubbles whose area is the count; a heat map where bubbles would be too small."""
    counts = history.last(m.CLASS_COUNTS)
    if not counts or all(row is None for row in counts):
        return Skipped(NAME, TITLE, "no class counts were recorded (the data have no classes)")
    table = matrix(counts)
    clients, classes = table.shape
    figure = new_figure(heat_height_in(classes))
    axes = figure.subplots()
    if max(clients, classes) <= TICKS_UP_TO:
        where = np.argwhere(table > 0)
        size = 72 * min(6.0 / clients, (heat_height_in(classes) - 1.0) / classes) * 0.9
        areas = table[table > 0] / max(float(np.nanmax(table)), 1.0) * size**2
        axes.grid(color=GRID, lw=0.6)
        axes.scatter(where[:, 0], where[:, 1], s=areas, color=SERIES[0], alpha=0.75, lw=0)
        axes.set(xlim=(-0.6, clients - 0.4), ylim=(classes - 0.4, -0.6))
        number_ticks(axes, x=clients, y=classes)
        axes.spines[:].set_visible(False)
        largest = f"{np.nanmax(table):,.0f}"
        caption = f"The area of a bubble is the number of samples (largest: {largest}); no bubble, no samples."
    else:
        heat_map(figure, axes, table.T, label="samples", high=None)
        caption = "Brighter cells are more samples, the darkest are none."
    axes.set(xlabel="client", ylabel="class")
    skew = history.last(m.SKEW) or {}
    if "js_divergence" in skew:
        caption += f" Jensen-Shannon divergence of the mixes {skew['js_divergence']:.2f} (0: all alike, 1: none shared)"
        caption += f", label EMD {skew['label_emd']:.2f} (0 to 2)." if "label_emd" in skew else "."
    return Plot(NAME, TITLE, caption, figure, cells(table, row="client", column="class", value="samples"))

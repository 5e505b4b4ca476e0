"""Which classes of the proxy set each client's filter lets through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import fedkd.metric_names as m
from fedkd.extras import need
from fedkd.report.events import History
from fedkd.report.plots.canvas import Plot, Skipped, cells, heat_height_in, heat_map, matrix, new_figure

NAME = "acceptance_by_class"
TITLE = "Proxy samples that each client's filter accepts, by class"
OUTLINES_UP_TO = 400  # cells; in larger maps the outlines of the own classes would hide the colours
OWN = "#f0256e"  # stands out from both ends of the colour scale


def draw(history: History, _config: Mapping[str, Any]) -> Plot | Skipped:
    """Clients by classes, the client's own classes outlined."""
    shares = history.last(m.ACCEPT_BY_CLASS)
    if not shares or all(row is None for row in shares):
        return Skipped(NAME, TITLE, "no acceptance by class was recorded (no filter, or a proxy set without labels)")
    accepted = matrix(shares)
    figure = new_figure(heat_height_in(accepted.shape[1]))
    axes = figure.subplots()
    heat_map(figure, axes, accepted.T, label="accept rate")
    axes.set(xlabel="client", ylabel="class")
    rows = cells(accepted, row="client", column="class", value="accept_rate")
    counts = history.last(m.CLASS_COUNTS)
    caption = "Each cell is the share of that class's proxy samples that the client speaks for."
    if counts and np.shape(counts) == accepted.shape:
        own = matrix(counts) > 0
        rows = [{**row, "is_own": int(is_own)} for row, is_own in zip(rows, own.ravel(), strict=True)]
        if own.size <= OUTLINES_UP_TO:
            caption += " Outlined: classes that the client holds; a good filter is bright there and dark elsewhere."
            rectangle = need("matplotlib.patches", extra="viz", what="plotting").Rectangle
            for client, label in np.argwhere(own):
                axes.add_patch(rectangle((client - 0.46, label - 0.46), 0.92, 0.92, fill=False, ec=OWN, lw=2))
    return Plot(NAME, TITLE, caption, figure, rows)

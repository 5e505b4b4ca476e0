"""How the filter's scores of a client's own samples and of the others' proxy samples lie around its threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

import fedkd.metric_names as m
from fedkd.extras import need
from fedkd.report.events import History
from fedkd.report.plots.canvas import INK, SERIES, Plot, Skipped, new_figure
from fedkd.types import Array

NAME = "filter_scores"
TITLE = "Filter scores and thresholds"
PANELS = 12
COLUMNS = 4


def draw(history: History, _config: Mapping[str, Any]) -> Plot | Skipped:
    """One small histogram per client, for at most twelve clients evenly spaced by id; the CSV has them all."""
    bins, holdout, proxy = (history.last(name) for name in (m.SCORE_BINS, m.SCORE_HOLDOUT, m.SCORE_PROXY))
    if not bins or not holdout or not proxy:
        return Skipped(NAME, TITLE, "no filter scores were recorded (no filter, or one without scores)")
    clients = [i for i, pair in enumerate(zip(holdout, proxy, strict=True)) if None not in pair]
    if not clients:
        return Skipped(NAME, TITLE, "no client reported filter scores")
    thresholds = history.last(m.THRESHOLD) or [None] * len(holdout)
    edges = {i: np.array(bins[i] if isinstance(bins[0], list) else bins, dtype=float) for i in clients}
    shown = [clients[i] for i in np.unique(np.linspace(0, len(clients) - 1, PANELS).round().astype(int))]

    lines = math.ceil(len(shown) / COLUMNS)
    figure = new_figure(0.9 + 1.65 * lines)
    grid = figure.subplots(lines, min(COLUMNS, len(shown)), squeeze=False, sharex=not isinstance(bins[0], list))
    for axes, client in zip(grid.flat, shown, strict=False):
        own, others = _shares(holdout[client]), _shares(proxy[client])
        axes.stairs(own, edges[client], fill=True, color=SERIES[0], alpha=0.45, label="own hold-out samples")
        axes.stairs(others, edges[client], color=SERIES[1], lw=1.6, label="others' proxy samples")
        if thresholds[client] is not None:
            axes.axvline(thresholds[client], color=INK, ls="--", lw=1.3, label="threshold (accepted to its right)")
        axes.set_title(f"client {client}", size=10)
        axes.set_yticks([])
        axes.set_ylim(0, None)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="x", labelsize=9, labelbottom=True)
        axes.xaxis.set_major_locator(need("matplotlib.ticker", extra="viz", what="plotting").MaxNLocator(3))
    for axes in list(grid.flat)[len(shown) :]:
        axes.set_visible(False)
    # A density ratio r has no upper end, so histograms hold r / (r + threshold); see fedkd.filters.selection.
    figure.supxlabel("score, of density ratios r / (r + threshold) (higher = more like the client's own data)", size=10)
    handles = {label: handle for handle, label in zip(*grid.flat[0].get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=3)
    which = (
        f"{len(shown)} of {len(clients):,} clients, evenly spaced by id"
        if len(shown) < len(clients)
        else "one panel per client"
    )
    caption = (
        "Heights are shares of each group; the filter works where the line of the others lies left of the threshold "
        f"and the filled area right of it ({which})."
    )
    rows = [row for i in clients for row in _rows(i, edges[i], holdout[i], proxy[i], thresholds[i])]
    return Plot(NAME, TITLE, caption, figure, rows)


def _shares(counts: list[float]) -> Array:
    values = np.array(counts, dtype=float)
    shares: Array = values / max(float(values.sum()), 1.0)
    return shares


def _rows(
    client: int, edges: Array, holdout: list[float], proxy: list[float], threshold: float | None
) -> list[dict[str, object]]:
    bounds = zip(edges[:-1], edges[1:], holdout, proxy, strict=True)
    return [
        {"client": client, "from": float(a), "to": float(b), "holdout": own, "proxy": others, "threshold": threshold}
        for a, b, own, others in bounds
    ]

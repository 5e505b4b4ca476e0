"""Bytes on the wire, round by round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fedkd.metric_names as m
from fedkd.extras import need
from fedkd.federation.emitter import SETUP_ROUND
from fedkd.report.events import History
from fedkd.report.plots.canvas import GRID, SERIES, Plot, Skipped, new_figure, round_axis
from fedkd.report.units import format_bytes

NAME = "bytes"
TITLE = "Bytes per round, all clients together"


def draw(history: History, config: Mapping[str, Any]) -> Plot | Skipped:
    """Upload and download as two panels of bars: they may differ by orders of magnitude."""
    up, down = (
        {r: v for r, v in history.series(name) if r != SETUP_ROUND} for name in (m.UPLINK_BYTES, m.DOWNLINK_BYTES)
    )
    rounds = sorted(up | down)
    if not rounds:
        return Skipped(NAME, TITLE, "no bytes were recorded")
    figure = new_figure(3.4)
    panels = figure.subplots(2, sharex=True)
    ticker = need("matplotlib.ticker", extra="viz", what="plotting")
    for axes, series, name, color in zip(panels, (up, down), ("upload", "download"), SERIES[:2], strict=True):
        axes.bar([r + 1 for r in series], list(series.values()), width=0.8, color=color, lw=0)
        axes.set_title(f"{name}: {format_bytes(sum(series.values()))} in all", size=10)
        axes.yaxis.set_major_locator(ticker.MaxNLocator(3))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(_tick))
        axes.grid(axis="y", color=GRID)
    round_axis(panels[1], last=rounds[-1], config=config)
    panels[1].set_xlim(rounds[0] + 0.4, rounds[-1] + 1.6)
    rows = [{"round_id": r, "upload_bytes": up.get(r), "download_bytes": down.get(r)} for r in rounds]
    caption = "What clients send to the server (top) and the server to clients (bottom); the set-up is not in it."
    return Plot(NAME, TITLE, caption, figure, rows)


def _tick(value: float, _position: int) -> str:
    amount, unit = format_bytes(value).split()
    return f"{float(amount):g} {unit}"

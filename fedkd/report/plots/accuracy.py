"""Accuracy (or what else clients are scored by) by round, with the spread over clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import fedkd.metric_names as m
from fedkd.report.events import History
from fedkd.report.plots.canvas import GRID, MUTED, SERIES, Plot, Skipped, matrix, new_figure, round_axis
from fedkd.report.units import name_of_metric
from fedkd.types import Array

NAME = "accuracy"


def draw(history: History, config: Mapping[str, Any]) -> Plot | Skipped:
    """Mean over clients as a line, standard deviation and extremes as bands, chance as a dashed line."""
    is_accuracy = bool(history.series(m.ACC_PER_CLIENT))
    what = "accuracy" if is_accuracy else name_of_metric(history.last(m.SCORE_NAME))
    title = f"{what.capitalize()} by round"
    series = history.series(m.ACC_PER_CLIENT if is_accuracy else m.SCORE_PER_CLIENT)
    if not series:
        return Skipped(NAME, title, "no evaluation was recorded")
    means = dict(history.series(m.ACC_MEAN if is_accuracy else m.SCORE_MEAN))
    rows = [_row(round_id, matrix(values), means.get(round_id)) for round_id, values in series]
    rounds = np.array([row["round_id"] for row in rows]) + 1
    mean, sd, low, high = (np.array([row[k] for row in rows], dtype=float) for k in ("mean", "sd", "min", "max"))

    figure = new_figure(3.6)
    axes = figure.subplots()
    axes.fill_between(rounds, low, high, color=SERIES[0], alpha=0.14, lw=0, label="lowest to highest client")
    axes.fill_between(
        rounds,
        np.maximum(mean - sd, low),
        np.minimum(mean + sd, high),
        color=SERIES[0],
        alpha=0.28,
        lw=0,
        label="mean ± sd",
    )
    axes.plot(rounds, mean, color=SERIES[0], marker="o" if len(rounds) <= 40 else None, ms=4, label="mean over clients")
    server = history.series(m.SERVER_ACC) if is_accuracy else []
    if server:
        axes.plot([r + 1 for r, _ in server], [v for _, v in server], color=SERIES[1], ls="--", label="server model")
        by_round = dict(server)
        rows = [{**row, "server": by_round.get(int(row["round_id"]))} for row in rows]
    if is_accuracy:
        classes = _classes(history)
        if classes:
            axes.axhline(1 / classes, color=MUTED, ls=":", lw=1.4, label=f"chance (1/{classes})")
        axes.set_ylim(0, max(1.0, float(np.nanmax(high))))
    axes.grid(axis="y", color=GRID)
    axes.set_ylabel(what)
    round_axis(axes, last=int(rounds[-1]) - 1, config=config)
    figure.legend(loc="outside upper left", ncols=5)
    caption = (
        f"The line is the mean {what} of all clients; the darker band is one standard deviation over clients, "
        "the lighter one reaches from the worst to the best client."
    )
    return Plot(NAME, title, caption, figure, rows)


def _row(round_id: int, values: Array, mean: float | None) -> dict[str, Any]:
    there = values[~np.isnan(values)]
    if not there.size:
        return {"round_id": round_id, "mean": mean, "sd": None, "min": None, "max": None, "clients": 0}
    return {
        "round_id": round_id,
        "mean": float(there.mean()) if mean is None else mean,
        "sd": float(there.std()),
        "min": float(there.min()),
        "max": float(there.max()),
        "clients": int(there.size),
    }


def _classes(history: History) -> int | None:
    for name in (m.CONFUSION, m.CLASS_COUNTS, m.ACCEPT_BY_CLASS):
        rows = [row for row in history.last(name) or () if row is not None]
        if rows:
            return len(rows[0])
    return None

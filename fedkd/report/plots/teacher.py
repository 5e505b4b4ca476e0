"""How good the knowledge is that the clients get: accuracy, coverage and purity by round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fedkd.metric_names as m
from fedkd.report.events import History
from fedkd.report.plots.canvas import GRID, SERIES, Plot, Skipped, new_figure, round_axis

NAME = "teacher"
TITLE = "The common teacher by round"
LINES = (
    ("teacher_acc", m.TEACHER_ACC, "accuracy of the teacher", SERIES[0], "-", "o"),
    ("coverage", m.COVERAGE, "coverage", SERIES[1], "--", "s"),
    ("purity", m.PURITY, "purity", SERIES[2], "-.", "^"),
)


def draw(history: History, config: Mapping[str, Any]) -> Plot | Skipped:
    """Three shares on one axis."""
    series = {key: dict(history.series(name)) for key, name, *_ in LINES}
    rounds = sorted({round_id for values in series.values() for round_id in values})
    if not rounds:
        return Skipped(NAME, TITLE, "neither teacher accuracy nor coverage nor purity was recorded")
    figure = new_figure(3.2)
    axes = figure.subplots()
    for key, _, label, color, line, marker in LINES:
        if series[key]:
            x, y = [r + 1 for r in series[key]], list(series[key].values())
            axes.plot(x, y, color=color, ls=line, marker=marker if len(x) <= 40 else None, ms=4, label=label)
    axes.set_ylim(0, 1.02)
    axes.grid(axis="y", color=GRID)
    axes.set_ylabel("share")
    round_axis(axes, last=rounds[-1], config=config)
    figure.legend(loc="outside upper left", ncols=3)
    rows: list[dict[str, object]] = [
        {"round_id": r, **{key: values.get(r) for key, values in series.items()}} for r in rounds
    ]
    caption = (
        "Coverage: share of proxy rows that at least one client spoke for; purity: share of votes by clients that "
        "hold the row's class; accuracy: how often the combined answer is right."
    )
    return Plot(NAME, TITLE, caption, figure, rows)

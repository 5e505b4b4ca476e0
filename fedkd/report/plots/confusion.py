"""What clients take for what: recall of each class by each client, and the mean confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import fedkd.metric_names as m
from fedkd.report.events import History
from fedkd.report.plots.canvas import Plot, Skipped, cells, heat_height_in, heat_map, matrix, new_figure
from fedkd.types import Array

RECALL = "recall_by_class"
CONFUSION = "confusion"
RECALL_TITLE = "Recall of each class by each client"
CONFUSION_TITLE = "Confusion matrix, mean over clients"
MISSING = "no confusion matrix was recorded (the task has no classes, or no evaluation was reached)"


def draw_recall(history: History, config: Mapping[str, Any]) -> Plot | Skipped:
    """Clients by classes: the share of a class's test samples that the client gets right."""
    shares = _shares(history)
    if shares is None:
        return Skipped(RECALL, RECALL_TITLE, MISSING)
    recall = np.diagonal(shares, axis1=1, axis2=2)
    figure = new_figure(heat_height_in(recall.shape[1]))
    axes = figure.subplots()
    heat_map(figure, axes, recall.T, label="recall")
    axes.set(xlabel="client", ylabel="class")
    title = f"{RECALL_TITLE}, {_moment(history, config)}"
    caption = (
        "Bright cells are classes that a client recognises; "
        "where clients learn from each other, columns are bright beyond the client's own classes."
    )
    return Plot(RECALL, title, caption, figure, cells(recall, row="client", column="class", value="recall"))


def draw_confusion(history: History, config: Mapping[str, Any]) -> Plot | Skipped:
    """Classes by classes: what the clients, on average, predict for each true class."""
    shares = _shares(history)
    if shares is None:
        return Skipped(CONFUSION, CONFUSION_TITLE, MISSING)
    there = ~np.isnan(shares)
    counts = there.sum(axis=0)
    mean = np.where(counts > 0, np.where(there, shares, 0.0).sum(axis=0) / np.maximum(counts, 1), np.nan)
    figure = new_figure(heat_height_in(len(mean)) + 0.6)
    axes = figure.subplots()
    heat_map(figure, axes, mean, label="share of the true class")
    axes.set(xlabel="predicted class", ylabel="true class")
    title = f"{CONFUSION_TITLE}, {_moment(history, config)}"
    caption = (
        "Each row sums to one: read along a row how the samples of a true class are predicted. "
        "A bright diagonal is right, a bright column is a class that clients prefer."
    )
    return Plot(CONFUSION, title, caption, figure, cells(mean, row="true", column="predicted", value="share"))


def _shares(history: History) -> Array | None:
    """(clients, classes, classes) with rows that sum to one; NaN where a client or a class has no sample."""
    counts = history.last(m.CONFUSION)
    if not counts or all(table is None for table in counts):
        return None
    tables = matrix(counts)
    totals = tables.sum(axis=2, keepdims=True)
    shares: Array = np.where(totals > 0, tables / np.where(totals > 0, totals, 1.0), np.nan)
    return shares


def _moment(history: History, config: Mapping[str, Any]) -> str:
    round_id = history.series(m.CONFUSION)[-1][0]
    return "at the end" if round_id >= int(config.get("rounds", 0)) else f"after round {round_id + 1}"

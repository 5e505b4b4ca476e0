"""One figure of a sweep as a table: rows by columns, with the best of each column and what is as good as it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Final

from fedkd.report.cells import CellResult
from fedkd.report.compare.grid import Column, Grid
from fedkd.report.compare.note import MAIN_FIGURE, Published
from fedkd.report.compare.statistics import holm, paired_p
from fedkd.report.units import name_of_metric

LEVEL: Final = 0.05
ONE_SEED: Final = "one seed: no test, so a best entry may be so by chance"


@dataclass(frozen=True, eq=False, kw_only=True)
class Entry:
    """One setting.

    Attributes:
        values: seed -> figure, of the cells that have it.
        mean: over the seeds; None where no cell has the figure.
        sd: the sample standard deviation over seeds; None for fewer than two.
        failed, missing: seeds whose cell failed or is not there.
        p: of the paired test against the best of the column, before correction; None where there was none.
        p_holm: corrected for the number of tests in the column.
        is_best: at the head of its column; several only where their means are equal.
        is_tied: tested against the best and not told apart from it at `LEVEL`.
    """

    row: str
    column: Column
    values: Mapping[str, float]
    mean: float | None = None
    sd: float | None = None
    failed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    p: float | None = None
    p_holm: float | None = None
    is_best: bool = False
    is_tied: bool = False
    published: tuple[Published, ...] = field(default=())

    @property
    def n(self) -> int:
        """How many seeds have the figure."""
        return len(self.values)


@dataclass(frozen=True, eq=False, kw_only=True)
class Head:
    """What is known of a whole column.

    Attributes:
        metric: its name; None where the column has no figures or cells of different metrics.
        higher_is_better: None where nothing says so; such a column has no best.
        remark: why there is no best or no test; "" where all was tested.
    """

    column: Column
    metric: str | None
    higher_is_better: bool | None
    remark: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """Every entry of one figure, rows first."""

    figure: str
    grid: Grid
    heads: tuple[Head, ...]
    entries: Mapping[tuple[str, Column], Entry]

    @property
    def title(self) -> str:
        """The figure in words: `final accuracy`."""
        return title_of_figure(self.figure, {head.metric for head in self.heads if head.metric})

    @property
    def remarks(self) -> tuple[str, ...]:
        """What heads say, each once, with the columns that it holds for unless it holds for all."""
        where: dict[str, list[str]] = {}
        for head in self.heads:
            if head.remark:
                where.setdefault(head.remark, []).append(self.grid.title(head.column))
        return tuple(
            remark if len(columns) == len(self.heads) else f"{'; '.join(columns)}: {remark}"
            for remark, columns in where.items()
        )


def make_tables(grid: Grid) -> list[Table]:
    """The final score, and the best of any round: of accuracy where there is one, else of the score."""
    has_acc = any(cell.summary.get("acc_mean_best") is not None for cell in grid.all_done)
    return [make_table(grid, figure) for figure in (MAIN_FIGURE, "acc_mean_best" if has_acc else "metric_mean_best")]


def make_table(grid: Grid, figure: str = MAIN_FIGURE) -> Table:
    """Means over seeds, and the test of each entry against the best of its column.

    Deviation: the best is chosen by the same figures that it is then tested with, so a tie is safer than a lead.
    """
    heads, entries = [], {}
    for column in grid.columns:
        bare = {row: _entry(grid, row, column, figure) for row in grid.rows}
        cells = [cell for row in grid.rows for cell in grid.done(row, column).values()]
        head, judged = _judge(_head(column, cells, figure), bare)
        heads.append(head)
        entries.update({(row, column): entry for row, entry in judged.items()})
    ordered = {(row, column): entries[row, column] for row in grid.rows for column in grid.columns}
    return Table(figure=figure, grid=grid, heads=tuple(heads), entries=ordered)


def title_of_figure(figure: str, metrics: set[str]) -> str:
    """A key of the summary in words."""
    words = {
        "metric_mean_final": "final",
        "metric_mean_best": "best",
        "acc_mean_final": "final",
        "acc_mean_best": "best",
    }
    if figure not in words:
        return figure.replace("_", " ")
    name = (
        "accuracy"
        if figure.startswith("acc_")
        else name_of_metric(next(iter(metrics)))
        if len(metrics) == 1
        else "score"
    )
    return f"{words[figure]} {name}"


def _entry(grid: Grid, row: str, column: Column, figure: str) -> Entry:
    known = {seed: cell.summary.get(figure) for seed, cell in grid.done(row, column).items()}
    values = {seed: float(value) for seed, value in known.items() if value is not None}
    return Entry(
        row=row,
        column=column,
        values=values,
        mean=fmean(values.values()) if values else None,
        sd=stdev(values.values()) if len(values) > 1 else None,
        failed=grid.failed(row, column),
        missing=tuple(seed for at_row, at_column, seed in grid.missing if (at_row, at_column) == (row, column)),
        published=tuple(
            each for each in grid.note.published if each.figure == figure and each.belongs_to(grid.labels(row, column))
        ),
    )


def _head(column: Column, cells: list[CellResult], figure: str) -> Head:
    known = [cell.summary for cell in cells if cell.summary.get(figure) is not None]
    if figure.startswith("acc_"):
        return Head(column=column, metric="acc" if known else None, higher_is_better=True)
    metrics = {summary.get("metric_name") for summary in known}
    directions = {summary.get("metric_higher_is_better") for summary in known}
    if len(metrics) > 1 or len(directions) > 1:
        remark = "cells of one column have different metrics, so it has no best"
        return Head(column=column, metric=None, higher_is_better=None, remark=remark)
    direction = directions.pop() if directions else None
    remark = "" if direction is not None or not known else "the cells do not say whether higher is better: no best"
    return Head(column=column, metric=metrics.pop() if metrics else None, higher_is_better=direction, remark=remark)


def _judge(head: Head, entries: Mapping[str, Entry]) -> tuple[Head, dict[str, Entry]]:
    """Mark the best, test the others against it."""
    means = {row: entry.mean for row, entry in entries.items() if entry.mean is not None}
    if head.higher_is_better is None or not means:
        return head, dict(entries)
    top = max(means.values()) if head.higher_is_better else min(means.values())
    leaders = [row for row, mean in means.items() if mean == top]
    leader = max(leaders, key=lambda row: entries[row].n)
    tests = {row: paired_p(entries[row].values, entries[leader].values) for row in means if row != leader}
    known = {row: p for row, p in tests.items() if p is not None}
    corrected = dict(zip(known, holm(list(known.values())), strict=True))
    judged = {
        row: replace(
            entry,
            is_best=row in leaders,
            is_tied=row not in leaders and corrected.get(row, 0.0) > LEVEL,
            p=known.get(row),
            p_holm=corrected.get(row),
        )
        for row, entry in entries.items()
    }
    untested = [row for row, p in tests.items() if p is None]
    return replace(head, remark=_remark(entries, untested)), judged


def _remark(entries: Mapping[str, Entry], untested: list[str]) -> str:
    if not untested:
        return ""
    if max(entry.n for entry in entries.values()) < 2:
        return ONE_SEED
    return f"no test against the best for {', '.join(untested)}: fewer than two seeds in common"

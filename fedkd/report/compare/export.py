"""A comparison as Markdown, CSV, JSON and LaTeX text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from fedkd.report.compare.grid import Block, Grid, blocks_of
from fedkd.report.compare.table import Entry, Head, Table
from fedkd.report.compare.words import TIE, beside, heads_of, how_to_repeat, legend_of, problems_of, text_of
from fedkd.report.plots.canvas import to_csv
from fedkd.types import Scalar

COMPARISON_SCHEMA: Final = 1


def to_markdown(grid: Grid, tables: Sequence[Table]) -> str:
    """A page with every table, the published figures, what failed, and how to repeat it."""
    parts = [f"# {_flat(grid.note.title)}"]
    for table in tables:
        parts.append(f"## {table.title.capitalize()}")
        for block in blocks_of(grid):
            parts += [f"### {_flat(block.title)}"] if block.title else []
            parts.append(_markdown_table(table, block))
        parts.append(legend_of(table))
        if table.remarks:
            parts.append("\n".join(f"* {_flat(remark)}." for remark in table.remarks))
    published = beside(tables)
    if published:
        head = ("setting", "figure", "ours", "published", "ours − published", "source", "what differs")
        rows = [(b.setting, b.figure, b.ours, b.published, b.difference, b.source, b.note) for b in published]
        parts += ["## Published beside ours", _markdown(head, rows)]
    problems = problems_of(grid)
    if problems:
        parts += ["## Cells without figures", _markdown(("cell", "why"), [(p.where, p.error) for p in problems])]
    parts += ["## How to repeat", _markdown(("what", "value"), how_to_repeat(grid))]
    return "\n\n".join(parts) + "\n"


def to_cells_csv(grid: Grid) -> str:
    """One row per cell, failed ones too: labels, error, single values of the summary, and the clients' figures."""
    rows: list[dict[str, object]] = [
        {
            **{f"label.{axis}": label for axis, label in cell.labels.items()},
            "error": cell.error,
            **_scalars(cell.summary),
            **cell.figures,
        }
        for place in ((row, column, seed) for row in grid.rows for column in grid.columns for seed in grid.seeds)
        if (cell := grid.cells.get(place)) is not None
    ]
    labels = [f"label.{axis}" for axis in (grid.row_axis, *grid.column_axes, "seed") if axis]
    names = list(dict.fromkeys([*labels, "error", *(name for row in rows for name in row)]))
    return to_csv([{name: row.get(name) for name in names} for row in rows])


def to_json(grid: Grid, tables: Sequence[Table]) -> str:
    """Every table with its statistics, as indented JSON; nothing is rounded."""
    tree = {
        "schema": COMPARISON_SCHEMA,
        "title": grid.note.title,
        "row_axis": grid.row_axis,
        "column_axes": list(grid.column_axes),
        "rows": list(grid.rows),
        "columns": [list(column) for column in grid.columns],
        "seeds": list(grid.seeds),
        "tables": [_json_table(table) for table in tables],
        "without_figures": [asdict(problem) for problem in problems_of(grid)],
        "repeat": dict(how_to_repeat(grid)),
    }
    return json.dumps(tree, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _markdown_table(table: Table, block: Block) -> str:
    seeds = len(table.grid.seeds)

    def shown(entry: Entry) -> str:
        text = text_of(entry, seeds)
        return f"**{text}**" if entry.is_best else f"{text} {TIE}" if entry.is_tied else text

    rows = [(row, *(shown(table.entries[row, column]) for column in block.columns)) for row in table.grid.rows]
    return _markdown(heads_of(table, block), rows)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_flat(cell) for cell in line)} |" for line in lines)


def _flat(text: str) -> str:
    """On one line, with what Markdown would take for its own marks kept as it is; bold of ours stays."""
    text = " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")
    return text.replace("_", r"\_").replace("`", r"\`")


def _scalars(summary: dict[str, Any], prefix: str = "") -> dict[str, Scalar | None]:
    found: dict[str, Scalar | None] = {}
    for name, value in summary.items():
        if isinstance(value, dict):
            found.update(_scalars(value, f"{prefix}{name}."))
        elif value is None or isinstance(value, bool | int | float | str):
            found[f"{prefix}{name}"] = value
    return found


def _json_table(table: Table) -> dict[str, Any]:
    return {
        "figure": table.figure,
        "columns": [_json_head(head) for head in table.heads],
        "entries": [_json_entry(entry) for entry in table.entries.values()],
    }


def _json_head(head: Head) -> dict[str, Any]:
    return {**asdict(head), "column": list(head.column)}


def _json_entry(entry: Entry) -> dict[str, Any]:
    return {
        **asdict(entry),
        "column": list(entry.column),
        "n": entry.n,
        "published": [p.flat() for p in entry.published],
    }

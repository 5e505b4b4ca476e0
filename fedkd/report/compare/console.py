"""A comparison in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedkd.report.compare.grid import Column
from fedkd.report.compare.table import Entry, Table
from fedkd.report.compare.words import TIE, legend_of, problems_of, text_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

PROBLEMS_UP_TO = 10
_GAP = 2


def comparison_tables(table: Table, width: int) -> list[RichTable]:
    """The table in as many blocks of columns as fit `width`, the best of each column bold and with a star."""
    return [_block(table, columns) for columns in _blocks(table, width)]


def print_comparison(table: Table, page: Path | None = None, *, console: Console | None = None) -> None:
    """Print the table, what has no figures, and where the page lies; no colours where the output is piped."""
    from rich.console import Console as RichConsole

    console = console or RichConsole()
    for block in comparison_tables(table, console.width):
        console.print(block)
        console.print()
    for text in (legend_of(table).replace("Bold:", "*:"), *(f"{remark}." for remark in table.remarks)):
        console.print(text, markup=False, highlight=False)
    problems = problems_of(table.grid)
    for problem in problems[:PROBLEMS_UP_TO]:  # printed past rich: it would break long lines and colour parts of them
        console.file.write(f"no figures: {problem.where}: {' '.join(problem.error.split())}\n")
    if len(problems) > PROBLEMS_UP_TO:
        console.file.write(f"no figures: {len(problems) - PROBLEMS_UP_TO} more, see the comparison\n")
    if page is not None:
        console.file.write(f"comparison: {page}\n")
    console.file.flush()


def _blocks(table: Table, width: int) -> list[list[Column]]:
    """Columns side by side as long as they fit; at least one."""
    seeds, rows = len(table.grid.seeds), table.grid.rows
    left = width - max(map(len, (*rows, table.grid.row_axis or "run")))
    blocks: list[list[Column]] = [[]]
    room = left
    for column in table.grid.columns:
        texts = [_marked(table.entries[row, column], seeds) for row in rows]
        need = _GAP + max(map(len, (*texts, *(table.grid.parts(column) or (table.title,)))))
        if need > room and blocks[-1]:
            blocks.append([])
            room = left
        blocks[-1].append(column)
        room -= need
    return blocks


def _block(table: Table, columns: Sequence[Column]) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    seeds = len(table.grid.seeds)
    made = RichTable(box=box.SIMPLE_HEAD, padding=(0, _GAP, 0, 0), pad_edge=False, show_edge=False)
    made.add_column(Text(table.grid.row_axis or "run"), overflow="fold")
    for column in columns:
        made.add_column(Text("\n".join(table.grid.parts(column)) or table.title), justify="right", overflow="fold")
    for row in table.grid.rows:
        entries = [table.entries[row, column] for column in columns]
        styles = ["bold" if entry.is_best else "dim" if entry.mean is None else "" for entry in entries]
        texts = [_marked(entry, seeds) for entry in entries]
        made.add_row(Text(row), *(Text(text, style=style) for text, style in zip(texts, styles, strict=True)))
    return made


def _marked(entry: Entry, seeds: int) -> str:
    mark = " *" if entry.is_best else f" {TIE}" if entry.is_tied else "  "
    return f"{text_of(entry, seeds)}{mark}"

"""comparison.html: one self-contained page, no scripts and nothing loaded from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fedkd.extras import need
from fedkd.report.compare import template
from fedkd.report.compare.grid import Grid, blocks_of
from fedkd.report.compare.table import Entry, Table
from fedkd.report.compare.words import TIE, beside, detail_of, heads_of, how_to_repeat, legend_of, problems_of, text_of
from fedkd.report.html import inline_svg
from fedkd.report.plots.canvas import Plot, Skipped
from fedkd.report.template import CSS
from fedkd.report.units import format_figure


def to_html(grid: Grid, tables: Sequence[Table], plots: Sequence[tuple[Plot, str]], skipped: Sequence[Skipped]) -> str:
    """The page as text.

    Args:
        plots: each with its SVG.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    jinja2 = need("jinja2", extra="viz", what="the HTML report")
    markup = need("markupsafe", extra="viz", what="the HTML report").Markup
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False)
    environment.filters["breakable"] = _breakable
    problems = problems_of(grid)
    page: str = environment.from_string(template.PAGE).render(
        css=markup(CSS + template.CSS),
        kind="comparison",
        title=grid.note.title,
        subtitle=_subtitle(grid),
        notice=_notice(grid),
        tables=[_table(table) for table in tables],
        published_head=("setting", "figure", "ours", "published", "ours − published", "source", "what differs"),
        published=[(b.setting, b.figure, b.ours, b.published, b.difference, b.source, b.note) for b in beside(tables)],
        plots=[
            {"name": plot.name, "title": plot.title, "caption": plot.caption, "svg": markup(inline_svg(plot, svg))}
            for plot, svg in plots
        ],
        skipped=skipped,
        problems=[(problem.where, problem.error) for problem in problems],
        repeat=how_to_repeat(grid),
    )
    return page


def _breakable(text: str) -> Any:
    """Text that may be broken behind the signs of which labels are made."""
    markupsafe = need("markupsafe", extra="viz", what="the HTML report")
    return markupsafe.Markup(re.sub(r"([_(,=])", r"\1<wbr>", str(markupsafe.escape(text))))


def _subtitle(grid: Grid) -> str:
    counts = [(grid.row_axis or "run", len(grid.rows)), ("seed", len(grid.seeds))]
    counts[1:1] = [(axis, len({column[i] for column in grid.columns})) for i, axis in enumerate(grid.column_axes)]
    return " × ".join(f"{axis} ({count})" for axis, count in counts)


def _notice(grid: Grid) -> str:
    """What a reader has to know first: that the table has holes."""
    failed = sum(not cell.is_done for cell in grid.cells.values())
    unread = len(grid.problems) - failed
    parts = [
        f"{failed} failed" if failed else "",
        f"{len(grid.missing)} missing" if grid.missing else "",
        f"{unread} cannot be used" if unread else "",
    ]
    told = ", ".join(part for part in parts if part)
    return f"Not all cells have figures: {told}. They are listed below; the tables hold what there is." if told else ""


def _table(table: Table) -> dict[str, Any]:
    grid = table.grid
    return {
        "figure": table.figure,
        "title": f"{table.title[:1].upper()}{table.title[1:]}",
        "blocks": [
            {
                "title": block.title,
                "head": heads_of(table, block),
                "rows": [
                    (row, [_cell(table.entries[row, column], len(grid.seeds)) for column in block.columns])
                    for row in grid.rows
                ],
            }
            for block in blocks_of(grid)
        ],
        "legend": legend_of(table),
        "remarks": table.remarks,
    }


def _cell(entry: Entry, seeds: int) -> dict[str, Any]:
    return {
        "text": text_of(entry, seeds),
        "kind": "n best" if entry.is_best else "n none" if entry.mean is None else "n",
        "tie": TIE if entry.is_tied else "",
        "detail": detail_of(entry),
        "published": [format_figure(each.value) for each in entry.published],
    }

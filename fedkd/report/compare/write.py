"""From a folder of cells to every file of its comparison."""

from __future__ import annotations

from pathlib import Path

from fedkd.extras import need
from fedkd.files import write_atomic
from fedkd.report.compare.export import to_cells_csv, to_json, to_markdown
from fedkd.report.compare.grid import read_grid
from fedkd.report.compare.html import to_html
from fedkd.report.compare.latex import to_latex
from fedkd.report.compare.plots import write_plots
from fedkd.report.compare.plots.panels import View
from fedkd.report.compare.table import make_tables

PLOTS = "plots"
PAGE = "comparison.html"


def write_comparison(folder: Path) -> Path:
    """Write the tables, the plots and comparison.html of a sweep, finished or not; returns the path of the page.

    The tables (comparison.md, .json and .tex, cells.csv) come first and need no extra.

    Raises:
        DataError: the folder has no cells, or its sweep.json is broken.
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    grid = read_grid(folder)
    tables = make_tables(grid)
    texts = {
        "comparison.md": to_markdown(grid, tables),
        "comparison.json": to_json(grid, tables),
        "comparison.tex": to_latex(tables),
        "cells.csv": to_cells_csv(grid),
    }
    for name, text in texts.items():
        write_atomic(folder / name, text.encode())
    need("jinja2", extra="viz", what="the HTML report")
    plots, skipped = write_plots(View(grid=grid, table=tables[0]), folder / PLOTS)
    page = folder / PAGE
    write_atomic(page, to_html(grid, tables, plots, skipped).encode())
    return page

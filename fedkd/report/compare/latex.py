"""A comparison as LaTeX: booktabs tables to be taken into a paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fedkd.report.compare.grid import Block, blocks_of
from fedkd.report.compare.table import Entry, Table
from fedkd.report.compare.words import TIE, heads_of, legend_of, text_of

_SPECIAL: Final = {
    "\\": r"\textbackslash{}",
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "≈": r"$\approx$",
    "×": r"$\times$",
    "−": r"$-$",
    "·": r"$\cdot$",
    "–": "--",
}


def to_latex(tables: Sequence[Table]) -> str:
    """A table environment for each figure; needs the package booktabs alone."""
    head = "% Made by fedkd. Needs \\usepackage{booktabs}.\n"
    return head + "\n".join(_environment(table) for table in tables)


def escape(text: str) -> str:
    """Text that LaTeX sets as it stands, on one line."""
    return "".join(_SPECIAL.get(sign, sign) for sign in " ".join(text.split()))


def _environment(table: Table) -> str:
    caption = " ".join([f"{table.grid.note.title}.", legend_of(table), *(f"{remark}." for remark in table.remarks)])
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"\centering",
            rf"\caption{{{escape(caption)}}}",
            rf"\label{{tab:{table.figure.replace('_', '-')}}}",
            r"\small",
            "\n\\medskip\n\n".join(_block(table, block) for block in blocks_of(table.grid)),
            "\\end{table}\n",
        ]
    )


def _block(table: Table, block: Block) -> str:
    seeds, columns = len(table.grid.seeds), block.columns
    head = heads_of(table, block)
    shared = rf"\cmidrule(l){{2-{len(head)}}}"
    span = [rf" & \multicolumn{{{len(columns)}}}{{c}}{{{escape(block.title)}}} \\", shared] if block.title else []
    lines = [
        [escape(row), *(_shown(table.entries[row, column], seeds) for column in columns)] for row in table.grid.rows
    ]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{l{'c' * len(columns)}}}",
            r"\toprule",
            *span,
            _line([escape(name) for name in head]),
            r"\midrule",
            *(_line(line) for line in lines),
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _shown(entry: Entry, seeds: int) -> str:
    text = escape(text_of(entry, seeds))
    if entry.is_best:
        return rf"\textbf{{{text}}}"
    return f"{text} {escape(TIE)}" if entry.is_tied else text

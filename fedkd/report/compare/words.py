"""A comparison in words: entries, notes, and how to repeat it; the same in every format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fedkd.report.compare.grid import Block, Grid, Problem, name_of
from fedkd.report.compare.note import Published
from fedkd.report.compare.table import LEVEL, Entry, Table
from fedkd.report.units import MISSING, format_figure

TIE: Final = "≈"
FEW_SEEDS: Final = 5
NOT_NOTED: Final = "not noted; the keys of each cell are in its file under cells/"


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A published figure next to ours."""

    setting: str
    figure: str
    ours: str
    published: str
    difference: str
    source: str
    note: str


def text_of(entry: Entry, seeds: int) -> str:
    """`0.812 ± 0.010`, with the number of seeds where some are missing; or why there is no figure."""
    if entry.mean is None:
        return "failed" if entry.failed else "missing" if entry.missing else MISSING
    spread = "" if entry.sd is None else f" ± {format_figure(entry.sd)}"
    count = f" (n={entry.n})" if entry.n < seeds else ""
    return f"{format_figure(entry.mean)}{spread}{count}"


def detail_of(entry: Entry) -> str:
    """Values by seed, the test, and what is not there, in one line."""
    parts = [f"seed {seed}: {format_figure(value)}" for seed, value in entry.values.items()]
    if entry.p is not None and entry.p_holm is not None:
        parts.append(f"p = {entry.p:.3g}, corrected {entry.p_holm:.3g}")
    parts += [f"seed {seed} failed" for seed in entry.failed]
    parts += [f"seed {seed} missing" for seed in entry.missing]
    return "; ".join(parts)


def heads_of(table: Table, block: Block) -> list[str]:
    """The heads of a block: what the rows are, then its columns."""
    columns = (" · ".join(table.grid.parts(column)[block.shared :]) for column in block.columns)
    return [table.grid.row_axis or "run", *(column or table.title for column in columns)]


def legend_of(table: Table) -> str:
    """How to read a table."""
    seeds = len(table.grid.seeds)
    better = {head.higher_is_better for head in table.heads if head.higher_is_better is not None}
    direction = " (higher is better)" if better == {True} else " (lower is better)" if better == {False} else ""
    name = f"{table.title[:1].upper()}{table.title[1:]}{direction}"
    if seeds < 2:
        return f"{name}, mean over clients, of one seed. Bold: best of its column."
    return (
        f"{name}, mean over clients: mean ± sample standard deviation over {seeds} seeds. Bold: best of its column. "
        f"{TIE}: not told apart from the best (paired t-test over seeds, Holm's correction within the column, "
        f"{LEVEL:.0%})."
        + (f" With {seeds} seeds only large and even differences can be told apart." if seeds < FEW_SEEDS else "")
    )


def problems_of(grid: Grid) -> list[Problem]:
    """Failed and unreadable cells, then those that are missing, by setting."""
    absent: dict[str, list[str]] = {}
    for row, column, seed in grid.missing:
        absent.setdefault(name_of(grid.labels(row, column)), []).append(seed)
    return [
        *grid.problems,
        *(Problem(where, f"not measured yet: seed {', '.join(seeds)}") for where, seeds in absent.items()),
    ]


def beside(tables: Iterable[Table]) -> list[Beside]:
    """Every published figure next to the setting that it belongs to."""
    return [
        _beside(table, entry, each) for table in tables for entry in table.entries.values() for each in entry.published
    ]


def how_to_repeat(grid: Grid) -> list[tuple[str, str]]:
    """Command, seeds, commits, machines and versions of the cells that have figures."""
    environments = [cell.environment for cell in grid.all_done]
    failed = sum(not cell.is_done for cell in grid.cells.values())
    sizes = [
        f"{len(environments)} measured",
        f"{failed} failed" if failed else "",
        f"{len(grid.missing)} missing" if grid.missing else "",
    ]
    return [
        ("command", grid.note.command or NOT_NOTED),
        ("cells", ", ".join(part for part in sizes if part)),
        ("seeds", ", ".join(grid.seeds)),
        ("size", _each(_sizes(grid))),
        ("commits", _each(_commit(env) for env in environments)),
        ("hardware", _each(_machine(env) for env in environments)),
        *((name, _each(env.get(name) for env in environments)) for name in ("fedkd", "torch", "numpy", "python")),
    ]


def _beside(table: Table, entry: Entry, published: Published) -> Beside:
    apart = None if entry.mean is None else entry.mean - published.value
    spread = "" if published.sd is None else f" ± {format_figure(published.sd)}"
    return Beside(
        setting=name_of(table.grid.labels(entry.row, entry.column)),
        figure=table.title,
        ours=text_of(entry, len(table.grid.seeds)),
        published=f"{format_figure(published.value)}{spread}",
        difference=MISSING if apart is None else f"{'−' if apart < 0 else '+'}{format_figure(abs(apart))}",
        source=published.source,
        note=published.note,
    )


def _each(found: Iterable[Any]) -> str:
    return "; ".join(dict.fromkeys(str(value) for value in found if value not in (None, ""))) or MISSING


def _sizes(grid: Grid) -> list[str]:
    sizes = [(cell.summary.get("num_clients"), cell.summary.get("rounds")) for cell in grid.all_done]
    return [f"{clients} clients, {rounds} rounds" for clients, rounds in sizes if clients is not None]


def _commit(environment: Mapping[str, Any]) -> str:
    commit = environment.get("commit")
    return f"{commit[:9]}{' with changes' if environment.get('is_dirty') else ''}" if commit else ""


def _machine(environment: Mapping[str, Any]) -> str:
    if not environment.get("processor"):
        return str(environment.get("machine", ""))
    return f"{environment['processor']} ({environment.get('machine', '?')}, {environment.get('cores', '?')} cores)"

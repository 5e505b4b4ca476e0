"""Write the tables of docs/ anew from the measured figures: simulations/results/*.json, simulations/compare/results/*.

python docs/build_tables.py            # rewrite
python docs/build_tables.py --check    # fail where the page is not what the data say
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench_plots import write_bench_plots
from bench_tables import bench_table

from fedkd.errors import DataError
from fedkd.listing import listing
from fedkd.report.compare.export import to_markdown
from fedkd.report.compare.grid import read_grid
from fedkd.report.compare.plots import write_plots
from fedkd.report.compare.plots.panels import View
from fedkd.report.compare.table import make_tables
from fedkd.report.results import latest, read_results
from fedkd.report.units import format_bytes, format_seconds

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    ROOT / "docs" / "results.md",
    ROOT / "docs" / "comparisons.md",
    ROOT / "docs" / "engine.md",
    *sorted((ROOT / "docs" / "methods").glob("*.md")),
)
RESULTS = ROOT / "simulations" / "results"
SWEEPS = ROOT / "simulations" / "compare" / "results"
PLOTS = ROOT / "docs" / "plots"
_BLOCK = re.compile(
    r"(<!-- (?P<kind>results|bench|figures|methods|compare): (?P<name>\w+)(?P<rest>[^\n]*) -->\n)"
    r"(?:(?!<!-- ).)*(?P<end><!-- end -->)",
    re.DOTALL,
)
_OPENING = re.compile(r"<!-- (?:results|bench|figures|methods|compare): ")


def table(name: str) -> str:
    """A Markdown table of the latest record of each setting in results/<name>.json, with how to repeat them."""
    records = latest(read_results(RESULTS / f"{name}.json"))
    if not records:
        return "_Not measured yet._\n"
    lines = [
        "| setting | final | best | sd over clients | upload | own / foreign | purity | time | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for record in records:
        figures = record["figures"]
        own, foreign = figures["accept_rate_own"], figures["accept_rate_foreign"]
        lines.append(
            "| "
            + " | ".join(
                [
                    _setting(record),
                    _spread(figures["acc_mean_final"]),
                    _spread(figures["acc_mean_best"]),
                    _mean(figures["metric_std_clients_final"], "{:.3f}"),
                    "–" if figures["upload_bytes"] is None else format_bytes(figures["upload_bytes"]["mean"]),
                    f"{_mean(own, '{:.2f}')} / {_mean(foreign, '{:.3f}')}",
                    _mean(figures["purity"], "{:.3f}"),
                    "–" if figures["seconds_total"] is None else format_seconds(figures["seconds_total"]["mean"]),
                    ", ".join(map(str, record["seeds"])),
                ]
            )
            + " |"
        )
    return "\n".join([*lines, "", _how(records)]) + "\n"


def figures(name: str, rest: str) -> str:
    """A Markdown table of chosen figures: `<!-- figures: wad methods/wad_pool | metric_mean_final, train/auroc -->`.

    A row for each setting of that experiment in results/<name>.json, a column for each figure.
    """
    if not (RESULTS / f"{name}.json").exists():
        raise DataError(f"a block asks for figures of {name!r}, but there is no simulations/results/{name}.json")
    experiment, _, listed = rest.strip().partition("|")
    wanted = [part.strip() for part in listed.split(",") if part.strip()]
    found = latest(read_results(RESULTS / f"{name}.json"))
    records = [record for record in found if record["experiment"] == experiment.strip()]
    if not records or not wanted:
        return "_Not measured yet._\n"
    known = {name for record in records for name in (*record["figures"], *record.get("client_figures", {}))}
    if unknown := [each for each in wanted if each not in known]:
        raise DataError(f"no record of {experiment.strip()} has {', '.join(unknown)}; correct the block's names")
    titles = [_title(figure, records[0]) for figure in wanted]
    lines = [f"| setting | {' | '.join(titles)} | seeds |", "| --- " * (len(wanted) + 2) + "|"]
    for record in records:
        values = [record["figures"].get(each) or record.get("client_figures", {}).get(each) for each in wanted]
        seeds = ", ".join(map(str, record["seeds"]))
        lines.append(f"| {_setting(record)} | {' | '.join(map(_spread, values))} | {seeds} |")
    return "\n".join([*lines, "", _how(records)]) + "\n"


def comparison(name: str) -> str:
    """What `fedkd compare` writes of the cells in simulations/compare/results/<name>: final figures, published ones."""
    grid = read_grid(SWEEPS / name)
    _, *lines = to_markdown(grid, make_tables(grid)[:1]).splitlines()
    return "\n".join(f"#{line}" if line.startswith("#") else line for line in lines).strip() + "\n"


def write_sweep_plots(text: str) -> None:
    """Draw the plots of sweeps that the page shows: `plots/<sweep>/<plot>.svg`."""
    for name in sorted(set(re.findall(r"\(plots/(\w+)/", text))):
        grid = read_grid(SWEEPS / name)
        with tempfile.TemporaryDirectory() as scratch:
            write_plots(View(grid=grid, table=make_tables(grid)[0]), Path(scratch))
            for plot in re.findall(rf"\(plots/{name}/(\w+)\.svg\)", text):
                (PLOTS / name).mkdir(parents=True, exist_ok=True)
                shutil.copy(Path(scratch) / f"{plot}.svg", PLOTS / name / f"{plot}.svg")


def methods(_: str) -> str:
    """The index of the cards, from the table in the code."""
    lines = ["| method | tasks | selects | exchanges | from |", "| --- | --- | --- | --- | --- |"]
    for entry in listing("methods"):
        cells = (
            f"[{entry['name']}]({entry['name']}.md)",
            ", ".join(entry["tasks"]),
            entry["selects"],
            entry["exchanges"],
        )
        lines.append(f"| {' | '.join(cells)} | {entry['paper']} ({entry['year']}) |")
    return "\n".join(lines) + "\n"


def render(text: str) -> str:
    """The page with every block filled in."""

    def made(found: re.Match[str]) -> str:
        if found["kind"] == "figures":
            return figures(found["name"], found["rest"])
        return {"results": table, "bench": bench_table, "methods": methods, "compare": comparison}[found["kind"]](
            found["name"]
        )

    if len(_BLOCK.findall(text)) != len(_OPENING.findall(text)):
        raise DataError("a block has no `<!-- end -->` before the next one begins; every block needs its own")
    return _BLOCK.sub(lambda found: f"{found[1]}{made(found)}{found['end']}", text)


def _how(records: Sequence[Mapping[str, Any]]) -> str:
    """One line: sizes, hardware, commits, and the command of the first record."""
    first = records[0]
    hardware, versions = first["hardware"], first["versions"]
    commits = ", ".join(dict.fromkeys(str(record["commit"])[:9] for record in records))
    clients, rounds = first["num_clients"], first["rounds"]
    return (
        f"{clients} client{'s' if clients != 1 else ''}, {rounds} round{'s' if rounds != 1 else ''} unless the setting "
        f"says otherwise. {hardware['processor']}, {hardware['cores']} cores; torch {versions['torch']}; commits "
        f"{commits}. To repeat a row: `{first['command']}`, with the setting behind `-c`."
    )


def _title(figure: str, record: Mapping[str, Any]) -> str:
    """A figure's name as the head of a column."""
    if figure.startswith("metric_"):
        when = {"metric_mean_final": "final", "metric_mean_best": "best"}.get(figure, figure)
        return f"{record.get('metric', 'acc')}, {when}"
    return figure.removeprefix("figures/").removeprefix("train/").replace("_", " ")


def _setting(record: Mapping[str, Any]) -> str:
    shown = [pair for pair in record["overrides"] if not pair.startswith(("data.root=", "engine."))]
    return " ".join(f"`{pair}`" for pair in shown) or "as the file says"


def _spread(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "–"
    return f"{figure['mean']:.4f}" + ("" if figure["sd"] is None else f" ± {figure['sd']:.4f}")


def _mean(figure: Mapping[str, Any] | None, form: str) -> str:
    return "–" if figure is None else form.format(figure["mean"])


if __name__ == "__main__":
    stale = [page for page in PAGES if page.read_text() != render(page.read_text())]
    if "--check" in sys.argv[1:]:
        listed = ", ".join(str(page.relative_to(ROOT)) for page in stale)
        sys.exit(f"{listed}: not what the measured figures say; run: make docs" if stale else 0)
    for page in stale:
        page.write_text(render(page.read_text()))
        write_sweep_plots(page.read_text())
        write_bench_plots(page.read_text(), PLOTS)

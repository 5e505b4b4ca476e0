"""report.html: one self-contained page, no scripts and nothing loaded from elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import fedkd.metric_names as m
from fedkd.experiment import load_file
from fedkd.extras import need
from fedkd.files import write_atomic
from fedkd.report.events import History
from fedkd.report.folder import RunFolder
from fedkd.report.plots import write_plots
from fedkd.report.plots.canvas import GRID, INK, MUTED, PALETTE, PAPER, Plot, to_svg
from fedkd.report.summary import Summary, read_summary, summarise
from fedkd.report.template import COLORS, CSS, PAGE
from fedkd.report.units import MISSING, format_bytes, format_figure, format_seconds, format_share, name_of_metric

THEMED: Mapping[str, str] = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    PAPER: "none",
    **dict(zip(PALETTE, (f"var(--{name})" for name in COLORS), strict=True)),
}


def write_report(folder: RunFolder) -> Path:
    """Write the plots and report.html of a run, finished or not; returns the path of the page.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
        DataError: the folder has no events or a broken file.
    """
    jinja2 = need("jinja2", extra="viz", what="the HTML report")
    plots, skipped = write_plots(folder)
    history = History.read(folder.metrics_jsonl)
    config = load_file(folder.config_toml)
    summary = read_summary(folder) or summarise(
        folder, engine=None, metric_name=history.last(m.SCORE_NAME), higher_is_better=None
    )
    columns, rows = _clients(history, summary)
    markup = need("markupsafe", extra="viz", what="the HTML report").Markup
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False)
    page = environment.from_string(PAGE).render(
        css=markup(CSS),
        kind="report",
        title=f"{summary['preset'] or 'run'} on {summary['dataset'] or 'unnamed data'}",
        subtitle=_subtitle(summary),
        is_finished=summary["metric_mean_final"] is not None or summary["acc_mean_final"] is not None,
        headline=_headline(summary, history),
        metric_note=_metric_note(summary),
        plots=[{"name": p.name, "title": p.title, "caption": p.caption, "svg": markup(inline_svg(p))} for p in plots],
        skipped=skipped,
        client_columns=columns,
        client_rows=rows,
        clients_note="Final figures are those of the closing message; bytes are sums over all rounds.",
        config=_groups(config),
        environment=_environment(folder),
    )
    write_atomic(folder.report_html, page.encode())
    return folder.report_html


def inline_svg(plot: Plot, svg: str = "") -> str:
    """The plot's SVG as an element of an HTML page: ids its own, colours the theme's, named for screen readers.

    Args:
        svg: the plot as `to_svg` drew it, where that was done before; drawing takes most of a report's time.
    """
    svg = svg or to_svg(plot.figure)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # its rules would hold for the whole page
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href=", "href=")
    svg = re.sub(r'\bid="([^"]*)"', rf'id="{plot.name}-\1"', svg)
    svg = re.sub(r'href="#([^"]*)"', rf'href="#{plot.name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]*)\)", rf"url(#{plot.name}-\1)", svg)
    for color, themed in THEMED.items():
        svg = svg.replace(color, themed)
    box = re.search(r'viewBox="([^"]*)"', svg)
    label = need("markupsafe", extra="viz", what="the HTML report").escape(f"{plot.title}. {plot.caption}")
    opening = f'<svg viewBox="{box.group(1) if box else ""}" role="img" aria-label="{label}">'
    return re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1).strip()


def _subtitle(summary: Summary) -> str:
    parts = (
        ("method", summary["method"]),
        ("scheme", summary["scheme"]),
        ("partition", summary["partition"]),
        ("clients", summary["num_clients"]),
        ("rounds", summary["rounds"]),
        ("seed", summary["seed"]),
        ("engine", summary["engine"]),
    )
    return " · ".join(f"{name} {value}" for name, value in parts if value is not None)


def _headline(summary: Summary, history: History) -> list[tuple[str, str]]:
    is_accuracy = summary["acc_mean_final"] is not None or summary["acc_mean_best"] is not None
    final, best = ("acc_mean_final", "acc_mean_best") if is_accuracy else ("metric_mean_final", "metric_mean_best")
    name = "accuracy" if is_accuracy else name_of_metric(summary["metric_name"])
    count = summary["rejected_shares"]
    skew = (summary["skew"] or {}).get("js_divergence")
    return [
        (f"Final {name}, mean", format_figure(summary[final])),
        (f"Best {name}, mean", format_figure(summary[best])),
        ("Sd over clients, final", format_figure(summary["metric_std_clients_final"])),
        ("Upload, all rounds", format_bytes(summary["upload_bytes"])),
        ("Upload, share of an unselected one", format_share(_selection(history))),
        ("Download, all rounds", format_bytes(summary["download_bytes"])),
        ("Accepted, own classes", format_share(summary["accept_rate_own"])),
        ("Accepted, foreign classes", format_share(summary["accept_rate_foreign"])),
        ("Coverage of the proxy", format_share(summary["coverage"])),
        ("Purity of the votes", format_share(summary["purity"])),
        ("Skew, JS divergence", MISSING if skew is None else f"{skew:.2f}"),
        ("Rejected shares", MISSING if count is None else f"{count:.0f}"),
        ("Time", format_seconds(summary["seconds_total"])),
    ]


def _selection(history: History) -> float | None:
    """Uplink bytes over those of shares with every row that was asked for, in the rounds that know both."""
    whole = dict(history.series(m.UNSELECTED_BYTES))
    sent = [value for round_id, value in history.series(m.UPLINK_BYTES) if round_id in whole]
    total = sum(whole.values())
    return sum(sent) / total if total else None


def _metric_note(summary: Summary) -> str:
    name = summary["metric_name"]
    if name is None:
        return f"{MISSING} means that a figure does not apply or was not recorded."
    better = "higher" if summary["metric_higher_is_better"] else "lower"
    told = f"Metric: {name_of_metric(name)} ({better} is better), averaged over all clients."
    return f"{told} {MISSING} means that a figure does not apply."


def _clients(history: History, summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Columns that have numbers, and one row per client."""
    counts = history.last(m.CLASS_COUNTS)
    scores = history.series(m.SCORE_PER_CLIENT) or history.series(m.ACC_PER_CLIENT)
    name = "accuracy" if history.series(m.ACC_PER_CLIENT) else name_of_metric(summary["metric_name"])
    sent = [values for round_id, values in history.series(m.UPLINK_PER_CLIENT) if round_id >= 0]
    columns: list[tuple[str, list[str]]] = []
    if counts:
        columns.append(("samples", [MISSING if row is None else f"{sum(v or 0 for v in row):,.0f}" for row in counts]))
        columns.append(("classes held", [MISSING if row is None else str(sum(bool(v) for v in row)) for row in counts]))
    if scores:
        final = summary["metric_per_client"] or summary["acc_per_client"]
        latest = (f"final {name}", final) if final else (f"{name}, round {scores[-1][0] + 1}", scores[-1][1])
        columns.append((latest[0], [format_figure(v) for v in latest[1]]))
        columns.append((f"{name}, round {scores[0][0] + 1}", [format_figure(v) for v in scores[0][1]]))
    if sent:
        totals = np.array(sent, dtype=float)  # a client that failed in a round sent nothing that counted
        columns.append(("upload", [format_bytes(v) for v in np.where(np.isnan(totals), 0, totals).sum(axis=0)]))
    if history.last(m.THRESHOLD):
        columns.append(("threshold", [format_figure(v) for v in history.last(m.THRESHOLD)]))
    lengths = {len(values) for _, values in columns}
    if not columns:
        return [], []
    rows = [[str(i), *(v[i] if i < len(v) else MISSING for _, v in columns)] for i in range(max(lengths))]
    return ["client", *(title for title, _ in columns)], rows


def _groups(config: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Flat keys by group, core keys first; names before options."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for flat, value in sorted(config.items(), key=lambda item: (not item[0].endswith(".name"), item[0])):
        group, _, key = flat.rpartition(".")
        groups.setdefault(group, []).append((key, json.dumps(value)))
    return [(group or "run", groups[group]) for group in sorted(groups)]


def _environment(folder: RunFolder) -> list[tuple[str, str]]:
    try:
        env = json.loads(folder.env_json.read_bytes())
    except (OSError, ValueError):
        return []
    return [(key.replace("_", " "), MISSING if value is None else str(value)) for key, value in env.items()]

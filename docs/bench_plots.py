"""Plots of docs/engine.md from what the benchmarks wrote: simulations/results/bench_*.json."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench_tables import read_bench

from fedkd.extras import need
from fedkd.report.plots.canvas import GRID, MARKERS, MUTED, PALETTE, STYLE, WIDTH_IN


def write_bench_plots(text: str, folder: Path) -> None:
    """Draw the plots that a page shows, `plots/engine/<plot>.svg`, as far as their figures were measured."""
    for name in re.findall(r"\(plots/engine/(\w+)\.svg\)", text):
        draw, source = PLOTS[name]
        found = read_bench(source)
        if found is not None:
            (folder / "engine").mkdir(parents=True, exist_ok=True)
            _save(draw, found, folder / "engine" / f"{name}.svg")


def _by_clients(axes: Any, found: Mapping[str, Any]) -> None:
    """Milliseconds per client and round against the number of clients, a line for each engine."""
    lines: dict[str, dict[int, float]] = {}
    for case in found["cases"]:
        if case["cohort"] not in (0, 1):
            continue
        name = {"local": f"local, {case['workers']} worker{'s' * (case['workers'] > 1)}", "flower": "Flower, cohorts"}
        label = "Flower, a node a client" if case["cohort"] == 1 else name[case["engine"]]
        lines.setdefault(label, {})[case["clients"]] = case["client_ms"]
    for number, (label, points) in enumerate(lines.items()):
        xs = sorted(points)
        axes.plot(xs, [points[x] for x in xs], marker=MARKERS[number], color=PALETTE[number], label=label)
    axes.set(xscale="log", yscale="log", xlabel="clients", ylabel="ms per client and round")
    axes.legend()


def _by_cohort(axes: Any, found: Mapping[str, Any]) -> None:
    """Seconds of a Flower round against the clients of a node; the local engine as a line."""
    flower = sorted(
        (case["cohort"], case["round_s"]) for case in found["cases"] if case["cohort"] and case["clients"] == 100
    )
    axes.plot(*zip(*flower, strict=True), marker=MARKERS[0], color=PALETTE[0], label="Flower, 100 clients")
    local = next(c for c in found["cases"] if (c["engine"], c["workers"], c["clients"]) == ("local", 2, 100))
    axes.axhline(local["round_s"], color=MUTED, linestyle="--", label="local engine, as many workers")
    axes.set(xscale="log", xlabel="clients of a node and message", ylabel="seconds of a round", ylim=(0, None))
    axes.legend()


def _by_model(axes: Any, found: Mapping[str, Any]) -> None:
    """The gain of training side by side against the number of clients, a line for each architecture."""
    lines: dict[str, dict[int, float]] = {}
    for line in found["timed"]:
        lines.setdefault(f"{line['model']}, {line['parameters']:,}", {})[line["clients"]] = line["gain"]
    for number, (label, points) in enumerate(lines.items()):
        axes.plot(
            list(points), list(points.values()), marker=MARKERS[number % len(MARKERS)],
            color=PALETTE[number % len(PALETTE)], linestyle="-" if number < len(PALETTE) else "--", label=label,
        )  # fmt: skip
    axes.axhline(1, color=MUTED, linewidth=1)
    axes.set(xlabel="clients side by side", ylabel="times as fast as one after the other", ylim=(0, None))
    axes.legend(title="model, parameters", loc="center left", bbox_to_anchor=(1.0, 0.5))


def _by_system(axes: Any, found: Mapping[str, Any]) -> None:
    """CPU seconds of a round, by case and system."""
    cases = list(dict.fromkeys(case["case"] for case in found["cases"]))
    systems = list(dict.fromkeys(f"{case['system']} {case['variant']}".strip() for case in found["cases"]))
    width = 0.8 / len(systems)
    for number, system in enumerate(systems):
        own = [c for c in found["cases"] if f"{c['system']} {c['variant']}".strip() == system]
        at = [cases.index(case["case"]) + (number - (len(systems) - 1) / 2) * width for case in own]
        bars = axes.bar(at, [case["cpu_s"] for case in own], width * 0.92, color=PALETTE[number], label=system)
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.set_xticks(range(len(cases)), cases)
    axes.set(ylabel="CPU seconds of a round")
    axes.legend()


Draw = Callable[[Any, Mapping[str, Any]], None]
PLOTS: Mapping[str, tuple[Draw, str]] = {
    "by_clients": (_by_clients, "scale"),
    "by_cohort": (_by_cohort, "scale"),
    "by_model": (_by_model, "stacking"),
    "by_system": (_by_system, "engine"),
}


def _save(draw: Draw, found: Mapping[str, Any], path: Path) -> None:
    matplotlib = need("matplotlib", extra="viz", what="drawing a plot")
    need("matplotlib.figure", extra="viz", what="drawing a plot")
    with matplotlib.rc_context(dict(STYLE)):
        figure = matplotlib.figure.Figure(figsize=(WIDTH_IN, 4.2))
        axes = figure.add_subplot()
        axes.grid(axis="y", color=GRID)
        draw(axes, found)
        figure.savefig(path, format="svg", metadata={"Date": None})

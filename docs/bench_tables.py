"""Tables of docs/ from what the benchmarks wrote: simulations/results/bench_*.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedkd.report.units import format_bytes, format_seconds

RESULTS = Path(__file__).resolve().parents[1] / "simulations" / "results"
NOT_YET = "_Not measured yet._\n"


def bench_table(name: str) -> str:
    """The Markdown of results/bench_<name>.json, as `fedkd bench <name> --json` wrote it."""
    found = read_bench(name)
    return NOT_YET if found is None else "\n".join([*TABLES[name](found), "", _how(found)]) + "\n"


def read_bench(name: str) -> dict[str, Any] | None:
    """The record of a benchmark, None where there is none."""
    path = RESULTS / f"bench_{name}.json"
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _filters(found: Mapping[str, Any]) -> list[str]:
    """Filters by width."""
    lines = _table(
        ("filter", "d", "k", "fit", "score", "kept", "peak of a process"),
        (
            (
                f"`{case['filter']}`",
                case["d"],
                case["k"] or "–",
                _seconds(case["fit_s"]),
                _seconds(case["score_s"]),
                _bytes(case["kept_bytes"]),
                _bytes(case["peak_rss_bytes"]),
            )
            for case in found["cases"]
        ),
    )
    lines.append("")
    for each in found["ratios"]:
        score, fit = each["score"], each["fit"]
        lines.append(
            f"* d = {each['d']}, k = {each['k']}: KMeans scores {score['kulsif']:.1f}× faster than KuLSIF in matmul "
            f"form ({score['kulsif_float32']:.1f}× in float32), keeps {each['kept']:.1f}× less; KuLSIF's fit takes "
            f"{fit['kulsif']:.2f}× KMeans' time."
        )
    return [*lines, "", f"{found['rows']:,} rows scored, {found['private']:,} private rows."]


def _engine(found: Mapping[str, Any]) -> list[str]:
    """Cases by system."""
    lines = _table(
        ("case", "by", "CPU s a round", "updates / s", "overhead ms", "peak", "GFLOP/s", "of GEMM", "accuracy"),
        (
            (
                f"`{case['case']}`",
                _by(case),
                f"{case['cpu_s']:.3f}",
                f"{case['updates_per_s']:.1f}",
                f"{case['overhead_ms']:.1f}",
                _bytes(case["peak_rss_bytes"]),
                f"{case['gflops_per_s']:.1f}",
                f"{case['gemm_share']:.1%}",
                f"{case['acc']:.3f}",
            )
            for case in found["cases"]
        ),
    )
    lines.append("")
    for each in found["ratios"]:
        lines.append(
            f"* `{each['case']}`: {_by(each)} takes {each['cpu']:.1f}× the CPU of fedkd ({each['cpu_low']:.1f} to "
            f"{each['cpu_high']:.1f} by repeat)."
        )
    notes = {f"* {_by(case)}: {note}." for case in found["cases"] for note in case["notes"]}
    return [
        *lines,
        "",
        f"{found['rounds']} rounds; the first is not timed. What a peer does otherwise:",
        "",
        *sorted(notes),
    ]


def _scale(found: Mapping[str, Any]) -> list[str]:
    """Engines by number of clients."""
    lines = _table(
        ("engine", "clients", "workers", "a round", "a client", "before", "first round", "after", "up", "peak (PSS)"),
        (
            (
                _engine_of(case),
                f"{case['clients']:,}",
                case["workers"],
                _seconds(case["round_s"]),
                f"{case['client_ms']:.2f} ms",
                _seconds(case["before_s"]),
                _seconds(case["first_round_s"]),
                _seconds(case["after_s"]),
                _bytes(case["uplink_bytes"]),
                _bytes(case["peak_pss_bytes"]),
            )
            for case in found["cases"]
        ),
    )
    lines.append("")
    if found["growth"]:
        growth = found["growth"]
        lines.append(
            f"* A client costs {growth['ratio']:.2f}× at {growth['clients']:,} clients as at {growth['against']}."
        )
    for each in found["flower_adds"]:
        within = "within" if each["adds_s"] <= each["allowed_s"] else "**more than**"
        engine = _engine_of({**each, "engine": "Flower"})
        lines.append(
            f"* {engine} adds {each['adds_s']:.2f} s to a round of {each['clients']:,} clients: {within} the "
            f"{each['allowed_s']:.2f} s that it may."
        )
    return lines


def _stacking(found: Mapping[str, Any]) -> list[str]:
    """Architectures by number of clients side by side."""
    return _table(
        ("model", "input", "parameters", "clients", "alone", "side by side", "gain"),
        (
            (
                f"`{line['model']}`",
                "×".join(map(str, line["input"])),
                f"{line['parameters']:,}",
                line["clients"],
                f"{line['alone_ms']:.2f} ms",
                f"{line['together_ms']:.2f} ms",
                f"{line['gain']:.2f}×",
            )
            for line in found["timed"]
        ),
    )


def _wire(found: Mapping[str, Any]) -> list[str]:
    """Codecs by size of a share."""
    return _table(
        ("form", "clients", "rows", "arrays", "message", "encode and pack", "unpack, decode and check"),
        (
            (
                f"`{case['form']}`",
                f"{case['clients']:,}",
                f"{case['rows']:,} × {case['columns']}",
                _bytes(case["payload_bytes"]),
                _bytes(case["message_bytes"]),
                f"{case['send_ms']:.2f} ms",
                f"{case['receive_ms']:.2f} ms",
            )
            for case in found["cases"]
        ),
    )


TABLES: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "filters": _filters,
    "engine": _engine,
    "scale": _scale,
    "stacking": _stacking,
    "wire": _wire,
}


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        "| --- " * len(head) + "|",
        *(f"| {' | '.join(map(str, row))} |" for row in rows),
    ]


def _how(found: Mapping[str, Any]) -> str:
    """Where the figures come from and how to repeat them."""
    machine = found["machine"]
    names = ("torch", "flwr", "numpy", "scikit-learn")
    versions = ", ".join(f"{name} {machine[name]}" for name in names if name in machine)
    threads = " on one thread" if found.get("threads") == 1 else ""
    return (
        f"Medians of {found['repeats']} interleaved repeats{threads}. {machine['processor']}, {machine['cores']} "
        f"cores; {versions}; commit {str(found['commit'])[:9]}. To repeat: `{found['command']}`."
    )


def _by(case: Mapping[str, Any]) -> str:
    return f"{case['system']} {case['variant']}".strip()


def _engine_of(case: Mapping[str, Any]) -> str:
    return f"{case['engine']}, {case['cohort']} a node" if case["cohort"] else str(case["engine"])


def _seconds(value: float | None) -> str:
    return "–" if value is None else format_seconds(value)


def _bytes(value: int | None) -> str:
    return "–" if value is None else format_bytes(value)

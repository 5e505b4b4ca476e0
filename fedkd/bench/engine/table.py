"""The engine's figures on the console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

_WIDTH = 118  # where there is no terminal whose width counts
_COLUMNS = ("CPU s", "wall s", "updates/s", "over ms", "peak MB", "up kB", "down kB", "GFLOP/s", "of GEMM", "acc")


def print_engine(found: Mapping[str, Any]) -> None:
    """The table, ratios, what peers do otherwise, and what the columns are."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("case", no_wrap=True)
    table.add_column("by", overflow="fold")
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    last = ""
    for case in found["cases"]:
        table.add_row("" if case["case"] == last else case["case"], _label(case), *_cells(case))
        last = case["case"]
    console.print(table)
    for line in (*_ratio_lines(found), *_note_lines(found), *_legend(found)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _cells(case: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{case['cpu_s']:.3f}",
        f"{case['wall_s']:.3f}",
        f"{case['updates_per_s']:.1f}",
        f"{case['overhead_ms']:.1f}",
        f"{case['peak_rss_bytes'] / 1e6:.0f}",
        *("" if count is None else f"{count / 1e3:,.1f}" for count in (case["upload_bytes"], case["download_bytes"])),
        f"{case['gflops_per_s']:.2f}",
        f"{case['gemm_share']:.1%}",
        f"{case['acc']:.3f}",
    )


def _ratio_lines(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for each in found["ratios"]:
        rows = "" if each["rows_trained"] == 1 else f" on {each['rows_trained']:.0%} of the rows"
        lines.append(
            f"{each['case']}: {_label(each)} takes {each['cpu']:.2f}x the CPU of fedkd in a round{rows} "
            f"({each['cpu_low']:.2f} to {each['cpu_high']:.2f} by repeat), accuracy {each['acc']:.3f} against "
            f"{each['acc_fedkd']:.3f}"
        )
    return lines


def _note_lines(found: Mapping[str, Any]) -> list[str]:
    """Each note once, with its cases where not all of the system's cases have it."""
    cases: dict[str, list[str]] = {}
    noted: dict[tuple[str, str], list[str]] = {}
    for each in found["cases"]:
        cases.setdefault(each["system"], []).append(each["case"])
        for note in each["notes"]:
            noted.setdefault((each["system"], note), []).append(each["case"])
    return [
        f"{system}{'' if where == cases[system] else ' on ' + ', '.join(where)}: {note}"
        for (system, note), where in noted.items()
    ]


def _legend(found: Mapping[str, Any]) -> list[str]:
    gemm = [case["gemm_gflops_per_s"] for case in found["cases"]]
    machine = found["machine"]
    return [
        "CPU, wall: of a round, median of the rounds after the first; over: CPU per client and round beyond that of a "
        "bare PyTorch loop over the same steps (channels last) in the same process; acc: mean of the clients after the "
        "last round",
        f"GFLOP/s: forward and backward of the models by CPU time; GEMM: torch.mm 1024^3, {min(gemm):.0f} to "
        f"{max(gemm):.0f} GFLOP/s in these processes",
        f"{found['rounds']} rounds, medians of {found['repeats']} interleaved repeats, one thread; "
        f"{machine['processor']}, {machine['cores']} cores; torch {machine['torch']}",
    ]


def _label(entry: Mapping[str, Any]) -> str:
    return f"{entry['system']} {entry['variant']}".strip()

"""What the benchmarks print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


def print_filters(found: dict[str, Any]) -> None:
    """A row for each filter and size, then what is claimed."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("filter", no_wrap=True)
    for name in ("d", "k", "fit ms", "score ms", "kept kB", "peak MB", "before fit"):
        table.add_column(name, justify="right")
    for case in found["cases"]:
        table.add_row(
            case["filter"],
            str(case["d"]),
            _figure(case["k"], 1),
            _figure(case["fit_s"], 1e3),
            _figure(case["score_s"], 1e3),
            _figure(case["kept_bytes"], 1e-3),
            _figure(case["peak_rss_bytes"], 1e-6),
            _figure(case["before_fit_bytes"], 1e-6),
        )
    console = Console()
    console.print(table)
    for case in found["cases"]:
        if case["note"]:
            console.print(f"{case['filter']}, d = {case['d']}: {case['note']}", highlight=False)
    for each in found["ratios"]:
        faster = ", ".join(f"{name} {value:.1f}x" for name, value in each["score"].items() if value is not None)
        fits = ", ".join(f"{name} {value:.2f}x" for name, value in each["fit"].items() if value is not None)
        console.print(
            f"d = {each['d']}, k = {each['k']}: against KMeans' score time {faster}; against its fit time {fits}; "
            f"kulsif keeps {each['kept']:.1f}x as much",
            highlight=False,
        )
    console.print(
        f"{found['rows']:,} rows scored; {found['private']:,} fitted, calibration included; one thread, medians of "
        f"{found['repeats']}; {found['machine']['processor']}",
        highlight=False,
    )


def print_stacking(found: dict[str, Any]) -> None:
    """A row for each architecture and number of clients."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("model", "input"):
        table.add_column(name, no_wrap=True)
    for name in ("parameters", "clients", "alone ms", "together ms", "gain"):
        table.add_column(name, justify="right")
    for line in found["timed"]:
        table.add_row(
            line["model"],
            "x".join(map(str, line["input"])),
            f"{line['parameters']:,}",
            str(line["clients"]),
            f"{line['alone_ms']:.3f}",
            f"{line['together_ms']:.3f}",
            f"{line['gain']:.2f}x",
        )
    console = Console()
    console.print(table)
    console.print(
        f"milliseconds per client and step, batches of {found['measured'][0]['batch']}; one thread, medians of "
        f"{found['repeats']}; {found['machine']['processor']}",
        highlight=False,
    )


def print_scale(found: dict[str, Any]) -> None:
    """A row for each case, then what is claimed."""
    columns = ("engine", "clients", "workers", "round s", "client ms", "other s", "before s", "first s", "after s")
    console = Console()
    console.print(
        _table(
            (*columns, "up kB", "down kB", "peak MB", "processes"),
            [
                (
                    f"{case['engine']}, {case['cohort']} a node" if case["cohort"] else case["engine"],
                    f"{case['clients']:,}",
                    str(case["workers"]),
                    f"{case['round_s']:.3f}",
                    f"{case['client_ms']:.2f}",
                    f"{case['overhead_s']:.3f}",
                    f"{case['before_s']:.1f}",
                    f"{case['first_round_s']:.1f}",
                    f"{case['after_s']:.1f}",
                    f"{case['uplink_bytes'] / 1e3:,.0f}",
                    f"{case['downlink_bytes'] / 1e3:,.0f}",
                    f"{case['peak_pss_bytes'] / 1e6:,.0f}",
                    str(case["peak_processes"]),
                )
                for case in found["cases"]
            ],
        )
    )
    said = ["round: median of those after the first; other: of it, what the clients do not spend"]
    said.append("before: command to end of set-up; first: the first round; after: last round to exit")
    if found["growth"]:
        growth = found["growth"]
        said.append(f"a client costs {growth['ratio']:.2f}x at {growth['clients']:,} clients as at {growth['against']}")
    for each in found["flower_adds"]:
        kind = f"Flower, {each['cohort']} a node," if each["cohort"] else "Flower"
        verdict = "within" if each["adds_s"] <= each["allowed_s"] else "MORE THAN"
        said.append(
            f"{kind} adds {each['adds_s']:.3f} s to a round of {each['clients']:,} clients: {verdict} "
            f"{each['allowed_s']:.3f} s"
        )
    said.append(f"medians of {found['repeats']}; {found['machine']['processor']}, {found['machine']['cores']} cores")
    for line in said:
        console.print(line, highlight=False)


def print_wire(found: dict[str, Any]) -> None:
    """A row for each case."""
    console = Console()
    console.print(
        _table(
            ("form", "clients", "rows", "payload kB", "message kB", "send ms", "receive ms"),
            [
                (
                    case["form"],
                    f"{case['clients']:,}",
                    f"{case['rows']:,} x {case['columns']}",
                    f"{case['payload_bytes'] / 1e3:,.1f}",
                    f"{case['message_bytes'] / 1e3:,.1f}",
                    f"{case['send_ms']:.2f}",
                    f"{case['receive_ms']:.2f}",
                )
                for case in found["cases"]
            ],
        )
    )
    console.print("send: encode and pack; receive: unpack, decode and check (npy: load alone)", highlight=False)
    console.print(f"medians of {found['repeats']}; {found['machine']['processor']}", highlight=False)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=not number)
    for row in rows:
        table.add_row(*row)
    return table


def _figure(value: float | None, factor: float) -> str:
    if value is None:
        return ""
    scaled = value * factor
    return f"{scaled:,.0f}" if scaled >= 100 or scaled == int(scaled) else f"{scaled:.2f}"

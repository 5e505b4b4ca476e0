"""What the benchmarks of scale and wire print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


def print_scale(found: dict[str, Any]) -> None:
    """A row for each case, then what is claimed."""
    columns = ("engine", "clients", "workers", "round s", "client ms", "other s", "before s", "first s", "after s")
    console = Console()
    console.print(
        _table(
            (*columns, "up kB", "down kB", "peak MB", "processes"),
            [
                (
                    f"{case['engine']}, plain" if case["plain"] else case["engine"],
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
        kind = "Flower, a node a client," if each["plain"] else "Flower"
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

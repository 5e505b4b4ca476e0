"""`fedkd bench`: measures and prints; the work is in the modules beside."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

bench = typer.Typer(help="Measure what is claimed about speed and memory, on this machine.", no_args_is_help=True)


@bench.callback()
def _group() -> None:
    """Says what the commands below have in common."""


@bench.command()
def filters(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved repeats; medians are printed.")] = 5,
) -> None:
    """KMeans, KuLSIF, uLSIF: seconds to fit and to score 6,000 rows, bytes kept, peak memory; one thread."""
    from fedkd.bench.filters import measure

    found = measure(repeats=repeats, say=lambda text: typer.echo(f"measuring {text}", err=True))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    _print(found)


@bench.command()
def scale(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved repeats; medians are printed.")] = 3,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds of a run; the first one is warm-up.")] = 4,
    full: Annotated[bool, typer.Option("--full", help="10,000 clients on the local engine, too.")] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Flower with a node and a message for each client, too; 10 and 100 clients.")
    ] = False,
    flower: Annotated[bool, typer.Option(help="Both engines, or the local one alone.")] = True,
    clients: Annotated[
        list[int] | None, typer.Option(min=1, help="So many clients; repeatable. \\[default: 10, 100, 1000]")
    ] = None,
) -> None:
    """10 to 10,000 clients: seconds of a round on both engines, what Flower adds, fixed cost, bytes, peak memory.

    Each run is a command of its own, in fresh processes. Takes many minutes: 1,000 clients are some seconds a round.
    """
    from fedkd.bench.scale import CLIENTS, PLAIN_CLIENTS, measure
    from fedkd.bench.tables import print_scale

    found = measure(
        repeats=repeats,
        rounds=rounds,
        clients=clients or CLIENTS,
        plain=PLAIN_CLIENTS if plain else (),
        full=full,
        flower=flower,
        say=lambda text: typer.echo(f"measuring {text}", err=True),
    )
    typer.echo(json.dumps(found, indent=2)) if as_json else print_scale(found)


@bench.command()
def wire(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved repeats; medians are printed.")] = 30,
) -> None:
    """Codecs: bytes of a share, milliseconds to send it and to receive and check it; a cohort of 1,000 clients."""
    from fedkd.bench.tables import print_wire
    from fedkd.bench.wire import measure

    found = measure(repeats=repeats, say=lambda text: typer.echo(f"measuring {text}", err=True))
    typer.echo(json.dumps(found, indent=2)) if as_json else print_wire(found)


def _print(found: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

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


def _figure(value: float | None, factor: float) -> str:
    if value is None:
        return ""
    scaled = value * factor
    return f"{scaled:,.0f}" if scaled >= 100 or scaled == int(scaled) else f"{scaled:.2f}"

"""`fedkd bench`: measures and prints; the work is in the modules beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import click
import typer

bench = typer.Typer(help="Measure what is claimed about speed and memory, on this machine.", no_args_is_help=True)


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
def stacking(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved repeats; medians count.")] = 7,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model of the table alone. Repeatable. \\[default: all]", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Clients trained side by side against one after the other, by architecture and number; one thread.

    What `engine.stack = "auto"` looks up (fedkd/models/stacks.json) is the part `measured` of the JSON.
    """
    from fedkd.bench.stacking import measure

    found = measure(
        repeats=repeats,
        models=model or (),
        device=device,
        say=lambda text: typer.echo(f"measuring {text}", err=True),
    )
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    _print_stacking(found)


@bench.command()
def engine(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved repeats; medians are printed.")] = 3,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds of a run; the first is not timed.")] = 5,
    case: Annotated[
        list[str] | None,
        typer.Option(help="wa_mlp, wa_cnn, wb_mlp or wb_cnn. Repeatable. \\[default: all]", show_default=False),
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option("--config", "-c", metavar="KEY=VALUE", help="A key for every run. Repeatable."),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="KEY=VALUE",
            help="Measure every case once more with this key, beside the first; several keys between quotes. "
            "Repeatable.",
        ),
    ] = None,
    peer: Annotated[
        list[Any] | None,
        typer.Option(
            metavar="NAME PATH",
            click_type=click.Tuple([str, click.Path(path_type=Path)]),
            help="Also measure other people's code from your checkout of it: htfllib (cases wa_*) or blazefl (cases "
            "wb_*). Repeatable.",
        ),
    ] = None,
) -> None:
    """Whole rounds of the local engine: CPU, wall time, overhead, memory, bytes, arithmetic rate; one thread.

    Cases are experiments in simulations/benchmarks/, on drawn data. wa_*: federated distillation without a proxy set
    (one epoch on 600 rows, batches of 10 or 32). wb_*: distillation over 1,000 proxy rows that no filter thins out (an
    epoch of each, then predictions). *_mlp: 20 clients with 784-64-10; *_cnn: 10 clients with a small CNN.

    Every run is a fresh process, and every repeat goes through all of them in turn, so that a busy machine slows all
    alike. A round is timed from one reading of the process's clock to the next, messages, aggregation and checkpoints
    included; evaluation comes after the last. Overhead is what a round takes beyond a bare PyTorch loop over the same
    steps. What a peer does otherwise is printed below the table.
    """
    from fedkd.bench.engine.measure import Settings, measure
    from fedkd.bench.engine.work import CASES

    settings = Settings(
        cases=case or CASES,
        rounds=rounds,
        repeats=repeats,
        config=config or (),
        variants=variant or (),
        peers=[(name, Path(path)) for name, path in peer or ()],
    )
    found = measure(settings, say=lambda text: typer.echo(f"measuring {text}", err=True))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    from fedkd.bench.engine.table import print_engine

    print_engine(found)


def _print_stacking(found: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

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

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
    from fedkd.bench.tables import print_filters

    found = measure(repeats=repeats, say=lambda text: typer.echo(f"measuring {text}", err=True))
    typer.echo(json.dumps(found, indent=2)) if as_json else print_filters(found)


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
    from fedkd.bench.tables import print_stacking

    found = measure(
        repeats=repeats,
        models=model or (),
        device=device,
        say=lambda text: typer.echo(f"measuring {text}", err=True),
    )
    typer.echo(json.dumps(found, indent=2)) if as_json else print_stacking(found)


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


@bench.command()
def scale(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved repeats; medians are printed.")] = 3,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds of a run; the first one is warm-up.")] = 4,
    full: Annotated[bool, typer.Option("--full", help="10,000 clients on the local engine, too.")] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Flower with a node and a message for each client, too; 10 and 100 clients.")
    ] = False,
    cohort: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Flower with 100 clients and so many of them a node, too. Repeatable.", show_default=False
        ),
    ] = None,
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
        cohorts=cohort or (),
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

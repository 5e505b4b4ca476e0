"""The command line: run, compare, tune, report, list, bench, doctor. Commands parse and print; the work is not here."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from fedkd.bench.command import bench
from fedkd.errors import ConfigError, FedKDError

app = typer.Typer(
    help="Federated distillation: clients exchange outputs on a shared proxy set, never weights.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(bench, name="bench")


class Engine(StrEnum):
    """Where the clients run."""

    local = "local"
    flower = "flower"


@app.command()
def run(
    experiment: Annotated[str, typer.Argument(help="A TOML file, or the name of one in simulations/.")] = "",
    config: Annotated[
        list[str] | None,
        typer.Option(
            "--config", "-c", metavar="KEY=VALUE", help="Override a key, e.g. -c preset=fd -c rounds=5. Repeatable."
        ),
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="local: in this process, no Flower, no Ray. flower: a Flower simulation on Ray.")
    ] = Engine.local,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder; must not exist. \\[default: runs/<time>-<preset>]", show_default=False),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with the run in this folder, from its last checkpoint.", show_default=False),
    ] = None,
    sink: Annotated[
        list[str] | None,
        typer.Option(help="Also send the numbers to tensorboard, wandb or trackio. Repeatable.", show_default=False),
    ] = None,
) -> None:
    """Run one experiment: progress, a table, and a run folder with summary, plots and report.

    EXPERIMENT is a TOML file or, in a checkout, the name of one in simulations/; without it the preset edgefd runs.
    """
    if resume is not None and (experiment or config or out is not None):
        raise ConfigError(
            "--resume goes on with a run as it is: give no experiment, -c or --out beside it", key="resume"
        )
    with _conducting(engine) as conduct:
        from fedkd.compose import compose, parse_overrides
        from fedkd.report.console import Progress, print_summary
        from fedkd.report.folder import default_run_path
        from fedkd.report.sinks import open_sinks
        from fedkd.runner import open_run, start_run

        if resume is not None:
            started = open_run(resume)
        else:
            composed = compose(experiment=experiment, overrides={"the command line": parse_overrides(config or [])})
            started = start_run(composed, out or default_run_path(composed.core.preset, datetime.now()))
        try:
            with (
                _warnings_shown(),
                Progress(started.experiment.core.rounds) as progress,
                open_sinks(sink or [], started.folder, started.experiment.flat()) as others,
            ):
                summary = conduct(started, listeners=[progress, *others])
        except KeyboardInterrupt:
            again = f"fedkd run --resume {started.folder.path} --engine {engine}"
            typer.echo(f"fedkd: stopped; go on with: {again}", err=True)
            raise typer.Exit(130) from None
        print_summary(summary, started.folder)


@contextlib.contextmanager
def _conducting(engine: Engine) -> Iterator[Callable[..., dict[str, Any]]]:
    """What runs an experiment. Flower starts at once, beside the imports and checks that follow."""
    if engine is Engine.flower:
        from fedkd.superlink import check_flower_engine, superlink

        check_flower_engine()
        with superlink() as link:
            from fedkd.flower_run import run_on_flower

            yield partial(run_on_flower, link=link)
    else:
        from fedkd.runner import conduct_locally

        yield conduct_locally


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
) -> None:
    """Write plots and report.html of runs anew, from their event files. RUNS are run folders."""
    from fedkd.report.folder import RunFolder
    from fedkd.report.html import write_report

    for path in runs:
        typer.echo(write_report(RunFolder.open(path)))


@app.command()
def compare(
    sweep: Annotated[str, typer.Argument(help="A TOML file, or the name of one in simulations/compare/.")],
    config: Annotated[
        list[str] | None,
        typer.Option("--config", "-c", metavar="KEY=VALUE", help="A key for every cell; repeatable."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the cells; goes on where it holds some. \\[default: runs/compare-<name>]",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Cells that run side by side on this machine.")] = 2,
    ray: Annotated[
        bool, typer.Option("--ray", help="Run the cells on Ray: on the cluster at RAY_ADDRESS, else here.")
    ] = False,
    cpus_per_cell: Annotated[float, typer.Option(min=0.1, help="With --ray: CPUs that a cell takes.")] = 1.0,
    gpus_per_cell: Annotated[
        float, typer.Option(min=0.0, help="With --ray: GPUs, or a share of one, that a cell takes.")
    ] = 0.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check every cell, list what would run, and leave.")
    ] = False,
) -> None:
    """Run every cell of a sweep and compare: methods, partitions, data sets, seeds, or any other keys.

    Finished cells are kept as JSON files and never run again: start a sweep that was stopped again, and it goes on.
    """
    from fedkd.compose import parse_overrides
    from fedkd.sweep.command import run_compare

    if not ray and (cpus_per_cell, gpus_per_cell) != (1.0, 0.0):
        raise ConfigError("--cpus-per-cell and --gpus-per-cell are for --ray; add it, or leave them out", key="ray")
    run_compare(
        sweep,
        overrides=parse_overrides(config or []),
        out=out,
        workers=workers,
        ray_share=(cpus_per_cell, gpus_per_cell) if ray else None,
        is_dry=dry_run,
    )


@app.command()
def tune(
    experiment: Annotated[str, typer.Argument(help="A TOML file, or the name of one in simulations/.")] = "",
    space: Annotated[
        list[str] | None,
        typer.Option(
            "--space",
            "-s",
            metavar="KEY=RANGE",
            help="schedule.lr=log:1e-4..1e-1, model.hidden=8..64, method.loss=kl|mse",
        ),
    ] = None,
    config: Annotated[
        list[str] | None, typer.Option("--config", "-c", metavar="KEY=VALUE", help="Override a key; repeatable.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, those of earlier calls included.")] = 20,
    validation: Annotated[float, typer.Option(help="Share of the training data that trials are judged on.")] = 0.2,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study. \\[default: runs/tune]", show_default=False)
    ] = None,
) -> None:
    """Search settings with Optuna, on a validation split; prints the best keys as `-c` options."""
    from fedkd.compose import parse_overrides
    from fedkd.sweep.tune import Range, Search
    from fedkd.sweep.tune import tune as searched

    ranges = [Range.parse(text, lambda part: parse_overrides([f"x={part}"])["x"]) for text in space or []]
    if not ranges:
        raise ConfigError(
            "nothing to search: give at least one --space, such as schedule.lr=log:1e-4..1e-1", key="space"
        )
    best = searched(
        Search(
            experiment=experiment,
            overrides=parse_overrides(config or []),
            space=ranges,
            trials=trials,
            validation=validation,
        ),
        out or Path("runs") / "tune",
        told=lambda text: typer.echo(text, err=True),
    )
    typer.echo(" ".join(f"-c {key}={value}" for key, value in best.items()))


class Kind(StrEnum):
    """What can be listed."""

    tasks = "tasks"
    methods = "methods"
    schemes = "schemes"
    presets = "presets"
    filters = "filters"
    codecs = "codecs"
    partitions = "partitions"
    datasets = "datasets"
    models = "models"


@app.command("list")
def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what there is to choose from, read from the tables in the code."""
    from fedkd.listing import listing

    entries = listing(kind.value)
    if as_json:
        typer.echo(json.dumps(entries, indent=2))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "what it is", "keys", box=box.SIMPLE_HEAD)
    for entry in entries:
        table.add_row(entry["name"], entry["summary"], ", ".join(entry["keys"]))
    Console().print(table)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at this machine: versions, extras, devices, threads. Non-zero exit where something needed is missing."""
    from fedkd.doctor import examine

    found = examine()
    if as_json:
        typer.echo(json.dumps([check.to_json() for check in found], indent=2))
    else:
        for check in found:
            typer.echo(
                f"{'ok  ' if check.is_ok else 'FAIL' if check.is_needed else 'none'}  {check.name}: {check.text}"
            )
    if any(check.is_needed and not check.is_ok for check in found):
        raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Options that stand before a command."""
    if show:
        from fedkd import __version__

        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; an expected error is one message on standard error and exit code 1."""
    try:
        app()
    except FedKDError as error:
        typer.secho(f"fedkd: {error}", fg=typer.colors.RED, err=True)
        sys.exit(1)


@contextlib.contextmanager
def _warnings_shown() -> Iterator[None]:
    """Warnings of fedkd (failed clients, missing extras) as plain lines on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    logger = logging.getLogger("fedkd")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = True
        logger.removeHandler(handler)

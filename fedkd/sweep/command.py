"""What `fedkd compare` does: check all cells, run what is missing, show how it goes, write the comparison."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import typer

from fedkd.compose import SIMULATIONS
from fedkd.errors import ConfigError, MissingExtraError, RunError
from fedkd.lookup import nearest
from fedkd.report.compare import write_comparison
from fedkd.report.compare.console import print_comparison
from fedkd.report.compare.grid import read_grid
from fedkd.report.compare.table import make_tables
from fedkd.report.units import format_figure, format_seconds
from fedkd.sweep.conduct import Progress, conduct_sweep, pending
from fedkd.sweep.plan import check_sweep, load_sweep
from fedkd.sweep.pool import run_locally
from fedkd.types import Flat

COMPARE = SIMULATIONS / "compare"


def run_compare(
    name: str,
    *,
    overrides: Flat,
    out: Path | None,
    workers: int,
    ray_share: tuple[float, float] | None,
    is_dry: bool,
) -> None:
    """Run the sweep and write its report; RunError at the end where cells have failed.

    Args:
        ray_share: CPUs and GPUs of one cell on Ray; None: child processes here.
    """
    sweep = load_sweep(find_sweep(name), overrides)
    folder = out or Path("runs") / f"compare-{sweep.name}"
    todo = pending(sweep, folder)
    typer.echo(
        f"{sweep.title}: {len(sweep.cells)} cells, {len(sweep.cells) - len(todo)} there, {len(todo)} to run", err=True
    )
    check_sweep(sweep)
    if is_dry:
        for cell in todo:
            typer.echo(cell.name)
        return
    runner: Any
    if ray_share is None:
        runner = functools.partial(run_locally, workers=workers)
    else:
        from fedkd.sweep.ray_pool import run_on_ray

        runner = functools.partial(run_on_ray, cpus=ray_share[0], gpus=ray_share[1])
    started = time.monotonic()

    def told(progress: Progress) -> None:
        typer.echo(line(progress, time.monotonic() - started), err=True)

    try:
        results = conduct_sweep(sweep, folder, runner, listener=told)
    except KeyboardInterrupt:
        typer.echo(f"fedkd: stopped; the same command goes on from {folder}", err=True)
        raise typer.Exit(130) from None
    failed = [result for result in results if not result.is_done]
    show(folder)
    if failed:
        raise RunError(
            f"{len(failed)} of {len(results)} cells failed, the first with: {failed[0].error}; the same command tries "
            "them again, and the comparison shows the others"
        )


def show(folder: Path) -> None:
    """Write the comparison and print its table and where it lies."""
    page: Path | None = None
    try:
        page = write_comparison(folder)
    except MissingExtraError as error:
        typer.echo(f"warning: no plots and no page: {error}", err=True)
    print_comparison(make_tables(read_grid(folder))[0], page)


def line(progress: Progress, seconds: float) -> str:
    """One line for a cell that has ended: how many of how many, its figure or error, and what time may be left."""
    result = progress.result
    if result.is_done:
        figure = format_figure(result.summary["metric_mean_final"])
        told = f"{result.summary['metric_name']} {figure}  {format_seconds(result.summary['seconds_total'])}"
    else:
        told = f"FAILED: {result.error}"
    left = seconds / progress.done * (progress.of - progress.done)
    rest = f"  about {format_seconds(left)} left" if progress.done < progress.of else ""
    return f"{progress.done}/{progress.of}  {progress.cell.name}  {told}{rest}"


def find_sweep(name: str) -> Path:
    """A path as it is, else `simulations/compare/<name>.toml`; ConfigError names those that there are."""
    for path in (Path(name), COMPARE / f"{name}.toml"):
        if path.is_file():
            return path.resolve()
    known = sorted(path.stem for path in COMPARE.glob("*.toml"))
    listed = f" Sweeps here: {', '.join(known)}" if known else ""
    raise ConfigError(
        f"sweep {name!r} is neither a file nor the name of one in simulations/compare{nearest(name, known)}{listed}",
        key="sweep",
    )

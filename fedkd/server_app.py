"""Flower's ServerApp: glue between the grid and the coordinator."""

from __future__ import annotations

import contextlib
import functools
import importlib
from datetime import datetime
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.superlink.grid import InMemoryGrid

from fedkd.compose import from_run_config
from fedkd.errors import FedKDError
from fedkd.federation.actor_pool import mend
from fedkd.federation.flower_fleet import FlowerFleet
from fedkd.report.console import Progress, print_summary
from fedkd.report.folder import default_run_path, state_home_run_path
from fedkd.runner import conduct, open_run, start_run

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that the run config describes, or go on with the run in `resume-from`.

    Raises:
        FedKDError: Flower then ends the run as failed; the reason also lies in the run folder as error.txt.
    """
    settle_pyarrow()
    if isinstance(grid, InMemoryGrid):
        mend_simulation()
    config = dict(context.run_config)
    resume_from = str(config.get("resume-from", ""))
    if resume_from and not Path(resume_from).is_absolute():
        raise FedKDError(
            f"resume-from is {resume_from!r}, expected an absolute path: Flower chooses this process's folder"
        )
    if resume_from:
        run = open_run(Path(resume_from))
    else:
        experiment = from_run_config(config)
        named = str(config.get("out", ""))
        out = (
            Path(named)
            if named
            else default_run_path(experiment.core.preset, datetime.now(), root=state_home_run_path())
        )
        if not out.is_absolute():
            raise FedKDError(
                f"out is {named!r}, expected an absolute path: this process runs in a folder of Flower's choice"
            )
        run = start_run(experiment, out)
    print(f"run folder: {run.folder.path}", flush=True)
    reason = run.folder.path / "error.txt"
    reason.unlink(missing_ok=True)
    try:
        with FlowerFleet(grid, clients_per_node=run.experiment.core.clients_per_node) as fleet:
            summary = conduct(
                run,
                fleet,
                engine="flower",
                listeners=[Progress(run.experiment.core.rounds)],
                with_report=bool(config.get("report", True)),  # `fedkd run` writes it while Flower ends
            )
    except Exception as error:
        said = str(error) if isinstance(error, FedKDError) else f"{type(error).__name__}: {error}"
        reason.write_text(f"{said}\n")
        raise
    print_summary(summary, run.folder)


@functools.cache  # once for the process
def mend_simulation() -> None:
    """Have Flower's simulation, which runs in this process, live on without the Ray actors that die."""
    ray_actor: Any = importlib.import_module("flwr.simulation.ray_transport.ray_actor")  # imports Ray
    mend(ray_actor.BasicActorPool, ray_actor.ray)


def settle_pyarrow() -> None:
    """Have pyarrow imported whole, where it is installed, before scikit-learn looks at it.

    Flower starts Ray in another thread while this one works. Ray imports pyarrow; scikit-learn, which takes whatever
    lies in `sys.modules` under that name, fails on one that is half there. An import statement waits for the other one.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("pyarrow")

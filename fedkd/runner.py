"""Running an experiment: folder, numbers, coordinator, summary and report put together."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from fedkd.combinations import metric_of
from fedkd.errors import MissingExtraError, RunError
from fedkd.experiment import Experiment, load_file
from fedkd.federation.checkpoint import Checkpoints
from fedkd.federation.coordinator import Coordinator, RunPaths
from fedkd.federation.fleet import Fleet
from fedkd.federation.local_fleet import LocalFleet
from fedkd.federation.preflight import Plan, preflight
from fedkd.files import write_atomic
from fedkd.report.events import Events
from fedkd.report.folder import RunFolder
from fedkd.report.html import write_report
from fedkd.report.summary import Summary, write_summary

Listener: TypeAlias = Callable[[Mapping[str, Any]], object]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Run:
    """A checked experiment and the folder that holds all it leaves behind."""

    experiment: Experiment
    plan: Plan
    folder: RunFolder


def start_run(experiment: Experiment, out: Path) -> Run:
    """A run in the new folder `out`, with everything written that is known before the first message.

    Raises:
        ConfigError, DataError: something is wrong with the experiment or the folder; nothing was made.
    """
    plan = preflight(experiment)
    folder = RunFolder.create(out)
    write_atomic(folder.config_toml, experiment.to_toml().encode())
    folder.write_env()
    plan.partition.save(folder.partition_npz)
    return Run(experiment, plan, folder)


def open_run(out: Path) -> Run:
    """The run in the folder `out`, to go on with it; ConfigError where there is none."""
    folder = RunFolder.open(out)
    values = load_file(folder.config_toml)
    experiment = Experiment.build(values, dict.fromkeys(values, f"file {folder.config_toml}"))
    return Run(experiment, preflight(experiment), folder)


def conduct(
    run: Run, fleet: Fleet, *, engine: str, listeners: Sequence[Listener] = (), with_report: bool = True
) -> Summary:
    """Run over a fleet, from where the folder's checkpoints say, to summary, plots and report."""
    folder = run.folder
    paths = RunPaths(state_root=folder.state, partition=folder.partition_npz, checkpoints=folder.checkpoints)
    with _alone(folder):
        with Events(folder.metrics_jsonl, folder.timings_jsonl, listeners=listeners) as events:
            Coordinator(run.experiment, fleet, plan=run.plan, paths=paths, emitter=events).run()
        name, higher = metric_of(run.experiment)
        summary = write_summary(folder, engine=engine, metric_name=name, higher_is_better=higher)
        if with_report:
            report(folder)
    return summary


def report(folder: RunFolder) -> None:
    """Plots and report of a run, or a warning where what they need is not installed."""
    try:
        write_report(folder)
    except MissingExtraError as error:
        _log.warning("no plots and no report: %s", error)


def rewind(run: Run) -> None:
    """Cut the event files back to the newest checkpoint, as going on with the run does."""
    folder = run.folder
    with _alone(folder), Events(folder.metrics_jsonl, folder.timings_jsonl) as events:
        progress = Checkpoints(folder.checkpoints).load()
        events.rewind(progress.position if progress else {"metrics": 0, "timings": 0})


def conduct_locally(run: Run, *, listeners: Sequence[Listener] = (), with_report: bool = True) -> Summary:
    """`conduct` over a LocalFleet of the configured size."""
    core, workers = run.experiment.core, run.experiment.engine.workers
    with LocalFleet(workers=workers, clients_per_node=core.clients_per_node, device=core.device) as fleet:
        return conduct(run, fleet, engine="local", listeners=listeners, with_report=with_report)


def run(experiment: Experiment, out: Path, *, listeners: Sequence[Listener] = ()) -> Summary:
    """Run an experiment in this process into the new folder `out`; what summary.json holds."""
    return conduct_locally(start_run(experiment, out), listeners=listeners)


def resume(out: Path, *, listeners: Sequence[Listener] = ()) -> Summary:
    """Go on, in this process, with the run in the folder `out`; what summary.json holds."""
    return conduct_locally(open_run(out), listeners=listeners)


@contextlib.contextmanager
def _alone(folder: RunFolder) -> Iterator[None]:
    """No second process goes on with the run in this folder meanwhile; RunError where one does."""
    handle = os.open(folder.path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it however this process ends
        except BlockingIOError as error:
            raise RunError(f"another process is running {folder.path}; wait until it has ended, or end it") from error
        except OSError:
            _log.debug("the file system of %s has no locks", folder.path)
        yield
    finally:
        os.close(handle)

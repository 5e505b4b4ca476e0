"""Running an experiment: folder, numbers, coordinator, summary and report put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedkd.errors import MissingExtraError
from fedkd.experiment import Experiment, load_file
from fedkd.federation.coordinator import Coordinator, RunPaths
from fedkd.federation.fleet import Fleet
from fedkd.federation.local_fleet import LocalFleet
from fedkd.federation.preflight import Plan, preflight
from fedkd.files import write_atomic
from fedkd.report.events import Events
from fedkd.report.folder import RunFolder
from fedkd.report.html import write_report
from fedkd.report.plots import write_plots
from fedkd.report.summary import write_summary
from fedkd.tasks import TASKS

Listener = Callable[[dict[str, Any]], object]


def start_folder(experiment: Experiment, plan: Plan, path: Path) -> RunFolder:
    """A new run folder with everything that is known before the first message."""
    folder = RunFolder.create(path)
    write_atomic(folder.config_toml, experiment.to_toml().encode())
    folder.write_env()
    plan.partition.save(folder.partition_npz)
    return folder


def conduct(
    experiment: Experiment, fleet: Fleet, folder: RunFolder, *, plan: Plan, engine: str, listeners: Sequence[Listener] = ()
) -> dict[str, Any]:
    """Run the experiment over a fleet, from where the folder's checkpoints say; the summary."""
    paths = RunPaths(
        state_root=folder.state.resolve(), partition=folder.partition_npz.resolve(), checkpoints=folder.checkpoints.resolve()
    )
    with Events(folder.metrics_jsonl, folder.timings_jsonl, listeners=listeners) as events:
        Coordinator(experiment, fleet, plan=plan, paths=paths, emitter=events).run()
    return conclude(experiment, folder, engine=engine)


def conclude(experiment: Experiment, folder: RunFolder, *, engine: str) -> dict[str, Any]:
    """Write summary, plots and report; without the extra `viz` the summary alone."""
    from fedkd.lookup import resolve

    task = resolve(TASKS, experiment.task, what="task")
    metric = experiment.method.cls.metric or task.metric
    summary = write_summary(
        folder, engine=engine, metric_name=metric, higher_is_better=task.metric_higher_is_better
    )
    try:
        write_plots(folder)
        write_report(folder)
    except MissingExtraError as error:
        print(f"no plots and no report: {error}", flush=True)
    return summary


def run(
    experiment: Experiment, out: Path, *, engine: str = "local", listeners: Sequence[Listener] = ()
) -> dict[str, Any]:
    """Run an experiment in this process into the new folder `out`; its summary.

    Raises:
        ConfigError, DataError: something is wrong with the experiment; nothing was started.
    """
    plan = preflight(experiment)
    folder = start_folder(experiment, plan, out)
    return _run_local(experiment, folder, plan, listeners)


def resume(out: Path, *, listeners: Sequence[Listener] = ()) -> dict[str, Any]:
    """Go on with the run in folder `out`, in this process; its summary."""
    folder = RunFolder.open(out)
    experiment = Experiment.build(load_file(folder.config_toml), {})
    return _run_local(experiment, folder, preflight(experiment), listeners)


def _run_local(experiment: Experiment, folder: RunFolder, plan: Plan, listeners: Sequence[Listener]) -> dict[str, Any]:
    core, settings = experiment.core, experiment.engine
    with LocalFleet(workers=settings.workers, clients_per_node=core.clients_per_node) as fleet:
        return conduct(experiment, fleet, folder, plan=plan, engine="local", listeners=listeners)

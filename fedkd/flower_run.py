"""`fedkd run --engine flower`: Flower's own `flwr run`, with every pitfall of it taken care of (docs/flower.md).

Flower's command line submits a run and forgets it. Here a SuperLink of our own serves exactly one run, which is waited
for and judged by Flower's word on how it ended.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from fedkd.errors import FedKDError, RunError
from fedkd.experiment import Experiment
from fedkd.report.summary import Summary, read_summary
from fedkd.report.tail import Tail
from fedkd.runner import Listener, Run, report, rewind
from fedkd.superlink import POLL_S, SubmitError, SuperLink, last_words
from fedkd.types import Scalar

PENDING_TIMEOUT_S = 180.0  # a submitted run that does not start by then never will
LOOKS = 5  # so many looks in a row may fail: a busy machine is no reason to give up a run of hours
# Seconds between looks at how the run stands, each of which costs a Python start: while Flower streams the log of a run
# that has not been seen to run, and where the stream has ended before the run, at first and at most.
STATUS_EVERY_S = (30.0, 4.0, 15.0)

_PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "fedkd-run"
version = "1.0.0"
description = "Two imports: fedkd does the work."
license = "Apache-2.0"
dependencies = []
[tool.hatch.build.targets.wheel]
packages = ["."]
[tool.flwr.app]
publisher = "fedkd"
[tool.flwr.app.components]
serverapp = "fedkd_run.server:app"
clientapp = "fedkd_run.client:app"
[tool.flwr.app.config]
resume-from = ""
report = false
"""


def run_on_flower(run: Run, *, link: SuperLink, listeners: Sequence[Listener] = ()) -> Summary:
    """Run (or go on with) the run in a Flower simulation on Ray; the summary. Flower's log stays as flower.log.

    A run that Flower does not start is given up after `PENDING_TIMEOUT_S`; one that runs has `engine.round_timeout_s`.
    The report is written here, while Flower still ends its processes.

    Raises:
        RunError: Flower could not start, or the run did not end as completed; the reason is in the text.
    """
    folder = run.folder
    app = write_app(folder.path / "app")
    reason = folder.path / "error.txt"
    reason.unlink(missing_ok=True)
    rewind(run)  # what is run again counts as news
    tail = Tail(folder.metrics_jsonl, folder.timings_jsonl, listeners)
    before = _written_at(folder.summary_json)  # a run that goes on may have one

    def is_ending() -> bool:
        return reason.exists() or _written_at(folder.summary_json) != before

    def end_well() -> None:
        if not reason.exists():
            report(folder)

    with _kept_log(link, folder.path / "flower.log") as log:
        link.submit(app, {"resume-from": str(folder.path)}, simulation_size(run.experiment))
        status, details = wait(link, tail, is_ending=is_ending, meanwhile=end_well)
    if status != "finished:completed":
        said = reason.read_text().strip() if reason.exists() else f"{details}\n{last_words(log.read_text())}"
        raise RunError(f"the Flower run ended as {status}: {said}\nFlower's log: {log}")
    summary = read_summary(folder)
    if summary is None:
        raise RunError(f"the Flower run completed but left no summary in {folder.path}; Flower's log: {log}")
    return summary


def wait(
    link: SuperLink, tail: Tail, *, is_ending: Callable[[], bool], meanwhile: Callable[[], None] = lambda: None
) -> tuple[str, str]:
    """Follow the run's numbers until Flower says that it is over; how it ended, and what Flower says of the reason.

    The stream of the run's log ends with the run: then Flower is asked. `meanwhile` is done once, when the server app
    has done its work and Flower's processes are about to end.
    """
    pending_s, every_s, longest_s = STATUS_EVERY_S
    submitted = asked = time.monotonic()
    failed, ends, runs, streamed = 0, False, False, True
    while True:
        tail.follow()
        link.check_alive()
        if not ends and is_ending():
            ends = True
            link.get_ready()
            tail.follow()
            meanwhile()
        since = time.monotonic() - asked
        was_streamed, streamed = streamed, link.is_streaming
        if streamed:
            is_due = not runs and since > pending_s
        else:
            is_due = was_streamed or since > every_s
            every_s = every_s if was_streamed or not is_due else min(1.5 * every_s, longest_s)
        if is_due:
            asked = time.monotonic()
            try:
                status, details = link.status()
            except SubmitError:
                raise
            except RunError:
                failed += 1
                if failed >= LOOKS:
                    raise
                continue
            failed = 0
            if status.startswith("finished"):
                tail.follow()
                return status, details
            runs = status == "running"
            if not runs and asked - submitted > PENDING_TIMEOUT_S:
                raise RunError(
                    f"the run is still {status} after {PENDING_TIMEOUT_S:g} s; is the machine busy, or its memory full?"
                )
        time.sleep(POLL_S)


def simulation_size(experiment: Experiment) -> dict[str, Scalar]:
    """Flower's words for the nodes and for what each of the `engine.workers` processes may use."""
    core, workers = experiment.core, experiment.engine.workers
    size: dict[str, Scalar] = {
        "num-supernodes": -(-core.num_clients // core.clients_per_node) if core.clients_per_node else workers,
        "client-resources-num-cpus": 1,
        "client-resources-num-gpus": _gpus_per_worker(experiment),
    }
    if not os.environ.get("RAY_ADDRESS"):  # a cluster that is there has the size it has
        size["init-args-num-cpus"] = workers  # as many actors as workers
    return size


def write_app(path: Path) -> Path:
    """The thin app that Flower bundles: a pyproject and two imports. The installed fedkd does the work."""
    shutil.rmtree(path, ignore_errors=True)
    package = path / "fedkd_run"
    try:
        package.mkdir(parents=True)
        (path / "pyproject.toml").write_text(_PYPROJECT)
        (package / "__init__.py").write_text("")
        for side in ("server", "client"):
            (package / f"{side}.py").write_text(f"from fedkd.{side}_app import app\n\n__all__ = ['app']\n")
    except OSError as error:
        raise FedKDError(f"cannot write the Flower app to {path}: {error.strerror}") from error
    return path


@contextlib.contextmanager
def _kept_log(link: SuperLink, path: Path) -> Iterator[Path]:
    """Flower's log of the run lies at `path` behind the block, unless somebody interrupts."""
    try:
        yield path
    except RunError as error:
        path.write_text(link.log())
        raise RunError(f"{error}\nFlower's log: {path}") from error
    path.write_text(link.log())


def _written_at(path: Path) -> int:
    """When the file was written, in nanoseconds; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _gpus_per_worker(experiment: Experiment) -> float:
    """As the experiment says, else a fair share of the GPUs of this machine, where there are any and one is wanted.

    Flower keeps it in single precision. Where that rounds a share up, one worker fewer would fit on a GPU.
    """
    engine = experiment.engine
    share = engine.gpus_per_worker
    if not share and experiment.core.device != "cpu":
        import torch

        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        share = 1.0 / math.ceil(engine.workers / gpus) if gpus else 0.0  # no worker is spread over two of them
    return share if float(np.float32(share)) <= share else math.floor(share * 1e4 - 1) / 1e4  # Ray counts in 1e-4

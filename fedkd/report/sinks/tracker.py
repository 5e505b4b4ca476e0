"""Experiment trackers with the interface of W&B: init, log, finish."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, final

from fedkd.extras import need
from fedkd.report.events import ROUND_ID
from fedkd.report.folder import RunFolder
from fedkd.report.sinks.scalars import scalars
from fedkd.types import Flat

PROJECT = "fedkd"


@final
class Tracker:
    """One tracker run for one fedkd run. Where it goes (account, offline, folder) is for the tracker's own settings."""

    def __init__(self, module: str, folder: RunFolder, config: Flat) -> None:
        self._library = need(module, extra="tracking", what=f"the sink {module}")
        self._library.init(project=PROJECT, name=folder.path.name, config=dict(config))

    def __enter__(self) -> Tracker:
        return self

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Take in one event. Trackers count steps from 0 and upwards: the set-up goes to step 0, round r to r + 1."""
        values = scalars(event)
        if values:
            self._library.log(values, step=int(event[ROUND_ID]) + 1)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.finish()


def wandb(folder: RunFolder, config: Flat) -> Tracker:
    """Weights & Biases; `WANDB_MODE=offline` keeps it on this machine."""
    return Tracker("wandb", folder, config)


def trackio(folder: RunFolder, config: Flat) -> Tracker:
    """Hugging Face's local tracker."""
    return Tracker("trackio", folder, config)

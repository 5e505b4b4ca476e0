"""Sinks: where a run's numbers go besides its own files, for those who look at them with other tools."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from fedkd.errors import ConfigError
from fedkd.lookup import resolve
from fedkd.report.events import Listener
from fedkd.report.folder import RunFolder
from fedkd.types import Flat

SINKS: Mapping[str, str] = {
    "tensorboard": "fedkd.report.sinks.tensorboard:TensorBoard",
    "wandb": "fedkd.report.sinks.tracker:wandb",
    "trackio": "fedkd.report.sinks.tracker:trackio",
}


@contextlib.contextmanager
def open_sinks(names: Sequence[str], folder: RunFolder, config: Flat) -> Iterator[list[Listener]]:
    """Listeners for the events of a run; closed when the block ends, however it does.

    Raises:
        ConfigError: an unknown name, or one that stands twice.
        MissingExtraError: the package behind a sink is not installed.
    """
    if len(set(names)) < len(names):
        raise ConfigError(f"sinks {', '.join(names)}: each stands once", key="sink")
    with contextlib.ExitStack() as open_ones:
        makers = [resolve(SINKS, name, what="sink") for name in names]
        yield [open_ones.enter_context(make(folder, config)) for make in makers]

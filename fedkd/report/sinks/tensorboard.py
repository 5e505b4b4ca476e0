"""TensorBoard event files in the run folder: `tensorboard --logdir runs`."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, final

from fedkd.extras import need
from fedkd.report.events import ROUND_ID
from fedkd.report.folder import RunFolder
from fedkd.report.sinks.scalars import scalars
from fedkd.types import Flat


@final
class TensorBoard:
    """Writes each number as a scalar at its round (from 0; the set-up at -1), the configuration as text."""

    def __init__(self, folder: RunFolder, config: Flat) -> None:
        library = need("tensorboardX", extra="tracking", what="the sink tensorboard")
        self._writer = library.SummaryWriter(logdir=str(folder.path / "tensorboard"))
        self._writer.add_text("config", "\n".join(f"    {key} = {value!r}" for key, value in sorted(config.items())), 0)

    def __enter__(self) -> TensorBoard:
        return self

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Take in one event."""
        for name, value in scalars(event).items():
            self._writer.add_scalar(name, value, int(event[ROUND_ID]))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

"""A sweep from its plan to a folder full of cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from fedkd.errors import ConfigError, DataError
from fedkd.report.cells import CELLS, CellResult, keys_of_numbers
from fedkd.sweep.plan import Cell, Sweep, fingerprint
from fedkd.sweep.pool import Done

Runner: TypeAlias = Callable[[Sequence[Cell]], Iterator[Done]]
Listener: TypeAlias = Callable[["Progress"], object]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a sweep stands after one more cell."""

    cell: Cell
    result: CellResult
    done: int  # cells of this call that have ended
    of: int
    kept: int  # cells that were there already


def pending(sweep: Sweep, folder: Path) -> list[Cell]:
    """The cells that have no good result in the folder yet: absent, failed, unreadable, or of other keys.

    Raises:
        ConfigError: the folder holds a cell of this name that was measured with other keys.
    """
    todo = []
    for cell in sweep.cells:
        path = path_of(folder, cell)
        try:
            found = CellResult.read(path)
        except DataError:
            todo.append(cell)
            continue
        if found.fingerprint != fingerprint(cell.experiment()):
            raise ConfigError(
                f"{path} was measured with other keys than the sweep now has; give another --out, or delete the "
                "file to measure the cell anew",
                key="out",
            )
        if not found.is_done:
            todo.append(cell)
    return todo


def conduct_sweep(sweep: Sweep, folder: Path, run: Runner, *, listener: Listener | None = None) -> list[CellResult]:
    """Run what is pending and write each cell as it ends; all results, in the sweep's order.

    A cell that fails is kept as such and tried again by the next call. A process that ends in between loses only the
    cells that were running.
    """
    todo = pending(sweep, folder)
    (folder / CELLS).mkdir(parents=True, exist_ok=True)
    sweep.note.write(folder)
    for number, (cell, answer) in enumerate(run(todo), start=1):
        result = failed(cell, answer) if isinstance(answer, str) else CellResult(**answer)
        result.write(path_of(folder, cell))
        if listener is not None:
            kept = len(sweep.cells) - len(todo)
            listener(Progress(cell=cell, result=result, done=number, of=len(todo), kept=kept))
    return [CellResult.read(path_of(folder, cell)) for cell in sweep.cells]


def failed(cell: Cell, error: str) -> CellResult:
    """The result of a cell whose process gave none."""
    experiment = cell.experiment()
    return CellResult(
        labels=dict(cell.labels),
        fingerprint=fingerprint(experiment),
        config=keys_of_numbers(experiment.flat()),
        error=error,
    )


def path_of(folder: Path, cell: Cell) -> Path:
    """The cell's file."""
    return folder / CELLS / f"{cell.name}.json"

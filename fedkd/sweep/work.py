"""One cell, run from its keys to its result; in whatever process."""

from __future__ import annotations

import logging
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedkd.errors import FedKDError
from fedkd.report.cells import CellResult, cell_of_run, keys_of_numbers
from fedkd.sweep.plan import Cell, fingerprint

_log = logging.getLogger(__name__)


def run_cell(job: dict[str, Any]) -> dict[str, Any]:
    """The result (fields of a CellResult) of a cell (fields of a Cell). Whatever goes wrong makes a failed result.

    The run's folder is scratch: it goes where the system keeps temporary files, and is gone afterwards.
    """
    from fedkd.runner import conduct_locally, start_run

    cell = Cell(**job)
    # Cells run side by side, not the clients of a cell; neither changes a number.
    experiment = cell.experiment({"engine.workers": 1})
    mark = fingerprint(experiment)
    scratch = Path(tempfile.mkdtemp(prefix="fedkd-cell-"))
    try:
        run = start_run(experiment, scratch / "run")
        summary = conduct_locally(run, with_report=False)
        result = cell_of_run(run.folder, summary, labels=cell.labels, fingerprint=mark)
    except Exception as error:  # a cell that fails must not end the sweep; its text says what and where
        told = str(error) if isinstance(error, FedKDError) else f"{type(error).__name__}: {error}"
        _log.warning("cell %s failed", cell.name, exc_info=not isinstance(error, FedKDError))
        result = CellResult(
            labels=dict(cell.labels), fingerprint=mark, config=keys_of_numbers(experiment.flat()), error=told
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return asdict(result)

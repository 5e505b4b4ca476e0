"""Cells of a sweep as JSON files: what one run found, small enough to be committed, with all that repeats it."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import fedkd.metric_names as m
from fedkd.errors import DataError
from fedkd.experiment import load_file
from fedkd.federation.emitter import SETUP_ROUND
from fedkd.files import write_atomic
from fedkd.provenance import processor
from fedkd.report.events import History
from fedkd.report.folder import RunFolder
from fedkd.report.summary import Summary, client_figures
from fedkd.types import Flat

CELL_SCHEMA = 1
CELLS = "cells"  # the folder of them
# Keys that change no number of a run: where files lie, how it is worked off. A cell counts on any machine.
NEUTRAL = ("engine.", "checkpoint.", "device", "data.root", "proxy.root", "filter.checkpoint")
PRECISION = "engine.precision"  # the one key of its group that numbers depend on
_DIGITS = 6  # of the series: as many as a plot or table shows, and a file of tens of kilobytes


@dataclass(frozen=True, eq=False, kw_only=True)
class CellResult:
    """One finished or failed cell.

    Attributes:
        labels: axis -> value as a person reads it.
        fingerprint: digest of the keys that the numbers depend on; another one means that the cell was changed.
        config: those keys; no path of the machine that measured, since cells are made to be passed on.
        error: why it failed; "" where it did not. A failed cell has neither summary nor series.
        series: by name, [round_id, value] of every round that has it: score by round, bytes up and down in the round.
        confusion: (classes, classes) counts summed over clients at the end, rows true; None where there is none.
    """

    labels: Mapping[str, str]
    fingerprint: str
    config: Flat
    error: str = ""
    summary: Summary = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    series: Mapping[str, list[list[float]]] = field(default_factory=dict)
    confusion: list[list[int]] | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    schema: int = CELL_SCHEMA

    @property
    def is_done(self) -> bool:
        """Whether it has figures."""
        return not self.error

    def write(self, path: Path) -> None:
        """As indented JSON, whole or not at all."""
        write_atomic(path, (json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> CellResult:
        """What `write` wrote; DataError where it is something else or of another version."""
        try:
            tree = json.loads(path.read_bytes())
            if tree["schema"] != CELL_SCHEMA:
                raise DataError(f"{path} has schema {tree['schema']!r}, expected {CELL_SCHEMA}; run the cell anew")
            return cls(**tree)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is no cell of a sweep ({error}); delete it, and the sweep runs it anew") from error


def keys_of_numbers(config: Flat) -> Flat:
    """The keys that a run's numbers depend on."""
    # Left out where it is the default: it is younger than many cells.
    narrow = {key: config[key] for key in (PRECISION,) if config.get(key, "float32") != "float32"}
    return {key: value for key, value in config.items() if not key.startswith(NEUTRAL)} | narrow


def cell_of_run(folder: RunFolder, summary: Summary, *, labels: Mapping[str, str], fingerprint: str) -> CellResult:
    """What a finished run leaves for the comparison."""
    history = History.read(folder.metrics_jsonl)
    names = (
        m.SCORE_MEAN,
        m.UPLINK_BYTES,
        m.DOWNLINK_BYTES,
        m.COVERAGE,
        m.PURITY,
        m.ACCEPT_RATE,
        m.TEACHER_ACC,
        m.SERVER_ACC,
    )
    series = {
        name: [
            [round_id, float(f"{value:.{_DIGITS}g}")]
            for round_id, value in history.series(name)
            if round_id != SETUP_ROUND
        ]
        for name in names
    }
    tables = [table for table in history.last(m.CONFUSION) or () if table is not None]
    env = json.loads(folder.env_json.read_text())
    return CellResult(
        labels=dict(labels),
        fingerprint=fingerprint,
        config=keys_of_numbers(load_file(folder.config_toml)),
        summary=summary,
        figures=client_figures(folder),
        series={name: points for name, points in series.items() if points},
        confusion=np.sum(tables, axis=0).astype(int).tolist() if tables else None,
        environment={
            "commit": env["git_commit"],
            "is_dirty": env["git_dirty"],
            **{name: env[name] for name in ("fedkd", "torch", "numpy", "python")},
            "processor": processor(),
            "cores": env["cpu_count"],
            "machine": platform.machine(),
        },
    )

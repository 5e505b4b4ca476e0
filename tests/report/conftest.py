"""Synthetic run folders: the numbers of a run without the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkd import metric_names as m
from fedkd.report.events import Events
from fedkd.report.folder import RunFolder

CONFIG = """\
preset = "edgefd"
seed = 3
rounds = {rounds}
num_clients = {clients}

[task]
name = "classification"

[data]
name = "digits <of> 8x8"

[method]
name = "soft_targets"
temperature = 4.0

[scheme]
name = "mean"

[partition]
name = "strong"
"""


def setup_numbers(rng: np.random.Generator, clients: int, classes: int) -> dict[str, Any]:
    own = np.arange(classes)[None] % clients == np.arange(clients)[:, None] % classes
    counts = np.where(own, rng.integers(60, 140, (clients, classes)), 0)
    accepted = np.where(own, rng.uniform(0.85, 1.0, own.shape), rng.uniform(0.0, 0.2, own.shape))
    edges = np.linspace(0, 1, 33)
    holdout = [np.histogram(np.clip(rng.normal(0.7, 0.08, 30), 0, 1), edges)[0] for _ in range(clients)]
    proxy = [np.histogram(np.clip(rng.normal(0.3, 0.12, 160), 0, 1), edges)[0] for _ in range(clients)]
    return {
        m.PROXY_SAMPLES: 180,
        m.SETUP_UPLINK_BYTES: 46_080,
        m.SETUP_DOWNLINK_BYTES: 460_800,
        m.THRESHOLD: rng.uniform(0.5, 0.6, clients),
        m.SCORE_BINS: edges,
        m.SCORE_HOLDOUT: holdout,
        m.SCORE_PROXY: proxy,
        m.ACCEPT_RATE: 0.17,
        m.ACCEPT_RATE_OWN: 0.93,
        m.ACCEPT_RATE_FOREIGN: 0.08,
        m.ACCEPT_BY_CLASS: accepted,
        m.CLASS_COUNTS: counts,
        m.SKEW: {"js_divergence": 1.0, "label_emd": 1.8},
    }


def round_numbers(rng: np.random.Generator, round_id: int, rounds: int, clients: int) -> dict[str, Any]:
    level = 0.88 - 0.75 * np.exp(-round_id / max(rounds / 4, 1))
    acc = np.clip(level + rng.normal(0, 0.05, clients), 0, 1)
    numbers: dict[str, Any] = {
        m.GOOD_REPLIES: clients,
        m.REJECTED: 1 if round_id == 1 else 0,
        m.FAILURES: 0,
        m.UPLINK_BYTES: 800 * clients + round_id,
        m.UPLINK_PER_CLIENT: np.full(clients, 800),
        m.SELECTED_ROWS: 18 * clients,
        m.UNSELECTED_BYTES: 3200 * clients,
        m.DOWNLINK_BYTES: 7300 * clients,
        m.SCORE_MEAN: acc.mean(),
        m.SCORE_PER_CLIENT: acc,
        m.ACC_MEAN: acc.mean(),
        m.ACC_PER_CLIENT: acc,
    }
    if round_id < rounds:
        shares = {m.COVERAGE: 0.9 + 0.05 * rng.random(), m.PURITY: 0.8 + 0.1 * rng.random(), m.TEACHER_ACC: level}
        return numbers | shares
    return numbers


def confusions(rng: np.random.Generator, clients: int, classes: int) -> np.ndarray[Any, Any]:
    base = np.eye(classes) * 30 + rng.uniform(0, 2, (clients, classes, classes))
    return np.round(base * 3)


def write_run(
    path: Path,
    *,
    clients: int = 4,
    rounds: int = 6,
    classes: int = 10,
    done: int | None = None,
    drop: tuple[str, ...] = (),
    listeners: Any = (),
) -> RunFolder:
    """A run folder as a run leaves it after `done` of its rounds (all, and the closing message, where None)."""
    rng = np.random.default_rng(7)
    folder = RunFolder.create(path)
    folder.config_toml.write_text(CONFIG.format(rounds=rounds, clients=clients))
    with Events(folder.metrics_jsonl, folder.timings_jsonl, listeners=listeners) as events:
        setup = setup_numbers(rng, clients, classes)
        events.emit(-1, {k: v for k, v in setup.items() if not k.startswith(drop or ("\0",))})
        events.clock(-1, {m.SECONDS_FILTER: 0.5, m.SECONDS_ROUND: 1.25})
        for round_id in range(rounds + 1 if done is None else done):
            numbers = round_numbers(rng, round_id, rounds, clients)
            if round_id == rounds:
                numbers[m.CONFUSION] = confusions(rng, clients, classes)
            events.emit(round_id, {k: v for k, v in numbers.items() if not k.startswith(drop or ("\0",))})
            clocks = {m.SECONDS_TRAIN: 1.5, m.SECONDS_AGGREGATE: 0.25, m.SECONDS_ROUND: 2.0}
            events.clock(round_id, {**clocks, m.PEAK_RSS_BYTES: 1000 + round_id})
    folder.write_env()
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunFolder]:
    """`make_run(name="run", **options of write_run)`."""

    def make(name: str = "run", **options: Any) -> RunFolder:
        return write_run(tmp_path / name, **options)

    return make


@pytest.fixture
def run_folder(make_run: Callable[..., RunFolder]) -> RunFolder:
    return make_run()

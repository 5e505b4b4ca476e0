"""Made-up cells: the numbers of a sweep without the sweep."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkd import metric_names as m
from fedkd.report.cells import CELLS, CellResult
from fedkd.report.compare import write_comparison
from fedkd.report.compare.note import SweepNote

ENVIRONMENT = {
    "commit": "0123456789abcdef",
    "is_dirty": False,
    "fedkd": "0.1.0",
    "torch": "2.9.0",
    "numpy": "2.0.0",
    "python": "3.11.9",
    "processor": "A Processor",
    "cores": 2,
    "machine": "x86_64",
}
AXES = {
    "method": ("edgefd", "fd", "local_only"),
    "partition": ("strong", "iid"),
    "seed": ("0", "1", "2"),
}
_SKEW = {"strong": 1.0, "dirichlet(alpha=0.1)": 0.55, "dirichlet(alpha=1.0)": 0.18, "iid": 0.01}


def bare(labels: Mapping[str, str], value: float | None = None, **summary: Any) -> CellResult:
    """A cell with a final accuracy and little else; failed where there is no value."""
    told = {"metric_name": "acc", "metric_higher_is_better": True, "metric_mean_final": value, "acc_mean_best": value}
    return CellResult(
        labels=labels,
        fingerprint="f",
        config={"seed": 0},
        error="" if value is not None else "ConfigError: no such_thing",
        summary={**told, **summary} if value is not None else {},
        environment=ENVIRONMENT,
    )


def full(
    labels: Mapping[str, str],
    *,
    place: int,
    skew: float,
    seed: int,
    rounds: int = 20,
    clients: int = 10,
    classes: int = 10,
) -> CellResult:
    """A cell as a run with a filter leaves it."""
    rng = np.random.default_rng([place, int(skew * 100), seed])
    top = 0.93 - 0.5 * skew * (0.3 + 0.08 * place) - 0.01 * place
    has_filter, sends = place % 3 != 2, "local" not in next(iter(labels.values()))
    level = top - (top - 0.12) * np.exp(-np.arange(rounds + 1) / (2 + place)) + rng.normal(0, 0.012, rounds + 1)
    per_client = np.clip(level[-1] + rng.normal(0, 0.04 + 0.03 * skew, clients), 0, 1)
    level[-1] = per_client.mean()
    bytes_up = 2e3 * clients * 4.0**place if sends else 0.0
    off = (1 - level[-1]) / (classes - 1)
    shares = np.full((classes, classes), off) + np.eye(classes) * (level[-1] - off)
    train, filters = 4.0 + 2 * place, 0.8 * has_filter * (1 + place / 3)
    summary = {
        "preset": None,
        "method": next(iter(labels.values())),
        "skew": {"js_divergence": skew, "label_emd": 1.8 * skew},
        "num_clients": clients,
        "rounds": rounds,
        "seed": seed,
        "metric_name": "acc",
        "metric_higher_is_better": True,
        "metric_mean_final": float(level[-1]),
        "metric_mean_best": float(level.max()),
        "metric_per_client": per_client.tolist(),
        "acc_mean_final": float(level[-1]),
        "acc_mean_best": float(level.max()),
        "acc_per_client": per_client.tolist(),
        "upload_bytes": bytes_up * rounds,
        "download_bytes": 4 * bytes_up * rounds,
        "accept_rate_own": 0.95 - 0.02 * place if has_filter else None,
        "accept_rate_foreign": 0.02 + 0.03 * place if has_filter else None,
        "coverage": min(1.0, 0.85 + 0.02 * place) if sends else None,
        "purity": 0.97 - 0.06 * place * skew if sends else None,
        "seconds_total": train + filters + 1.5 + rng.uniform(0.2, 0.5),
        "seconds_train": train,
        "seconds_filter": filters,
        "seconds_aggregate": 0.9 if sends else 0.0,
    }
    return CellResult(
        labels=labels,
        fingerprint="f",
        config={"seed": seed, "rounds": rounds},
        summary=summary,
        figures={"figures/loss": 0.5},
        series={
            m.SCORE_MEAN: [[i, float(f"{v:.6g}")] for i, v in enumerate(level)],
            m.UPLINK_BYTES: [[i, bytes_up] for i in range(rounds)],
        },
        confusion=np.round(rng.poisson(shares * 400)).astype(int).tolist(),
        environment=ENVIRONMENT,
    )


def write_sweep(
    folder: Path,
    axes: Mapping[str, Sequence[str]] = AXES,
    *,
    published: Sequence[Mapping[str, Any]] = (),
    fail: Sequence[int] = (),
    drop: Sequence[int] = (),
) -> Path:
    """The folder of a sweep; the cells of the given numbers fail or are not there."""
    (folder / CELLS).mkdir(parents=True, exist_ok=True)
    (first, rows), *_ = axes.items()
    found = [dict(zip(axes, chosen, strict=True)) for chosen in itertools.product(*axes.values())]
    SweepNote.of_plan(
        "Methods <compared> & more", found, published=published, command="fedkd sweep simulations/compared.toml"
    ).write(folder)
    for number, labels in enumerate(found):
        skew = _SKEW.get(labels.get("partition", ""), 0.3)
        cell = full(labels, place=rows.index(labels[first]), skew=skew, seed=int(labels.get("seed", "0")))
        if number in fail:
            cell = CellResult(
                labels=labels, fingerprint="f", config={}, error="ConfigError: model.name = 'x_y' <unknown>"
            )
        if number not in drop:
            cell.write(folder / CELLS / f"{number:04}.json")
    return folder


@pytest.fixture
def sweep_folder(tmp_path: Path) -> Path:
    """Three methods, two partitions, three seeds; all there."""
    return write_sweep(tmp_path / "sweep")


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a published figure, a failed and a missing cell, and its comparison; not to be changed."""
    published = [{"method": "fd", "partition": "iid", "value": 0.5, "source": "Smith <2020>", "note": "20 clients"}]
    folder = write_sweep(tmp_path_factory.mktemp("compared"), published=published, fail=(4,), drop=(17,))
    write_comparison(folder)
    return folder


@pytest.fixture
def bare_cell() -> Callable[..., CellResult]:
    """`bare`."""
    return bare


@pytest.fixture
def make_sweep(tmp_path: Path) -> Callable[..., Path]:
    """`make_sweep(axes, **options of write_sweep)`."""

    def make(axes: Mapping[str, Sequence[str]] = AXES, **options: Any) -> Path:
        return write_sweep(tmp_path / "made", axes, **options)

    return make

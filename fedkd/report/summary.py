"""summary.json: the headline figures of a run, rebuilt from config.toml, metrics.jsonl and timings.jsonl alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

import fedkd.metric_names as m
from fedkd.errors import DataError
from fedkd.experiment import load_file
from fedkd.federation.emitter import SETUP_ROUND
from fedkd.files import write_atomic
from fedkd.report.events import History
from fedkd.report.folder import RunFolder

SCHEMA_VERSION = 1

Summary: TypeAlias = dict[str, Any]


def summarise(
    folder: RunFolder, *, engine: str | None, metric_name: str | None, higher_is_better: bool | None
) -> Summary:
    """The figures of `folder`; what does not apply, or was not reached by an unfinished run, is None.

    `*_final` are those of the closing message; `*_best` the best mean of any evaluation. Bytes are those of all
    rounds and the closing message; the set-up is not in them. `coverage` and `purity` are means over the rounds that
    have them, seconds are sums and `metric_std_clients_final` is the population standard deviation over clients.
    """
    config = load_file(folder.config_toml)
    metrics = History.read(folder.metrics_jsonl)
    timings = History.read(folder.timings_jsonl) if folder.timings_jsonl.exists() else History([])
    closing = int(config.get("rounds", 0))
    scores = metrics.at(m.SCORE_PER_CLIENT, closing)
    return {
        "schema_version": SCHEMA_VERSION,
        "preset": config.get("preset"),
        "method": config.get("method.name"),
        "scheme": config.get("scheme.name"),
        "dataset": _dataset(config),
        "partition": config.get("partition.name"),
        "skew": metrics.at(m.SKEW, SETUP_ROUND),
        "num_clients": config.get("num_clients"),
        "rounds": config.get("rounds"),
        "seed": config.get("seed"),
        "engine": engine,
        "metric_name": metric_name,
        "metric_higher_is_better": higher_is_better,
        "metric_mean_final": metrics.at(m.SCORE_MEAN, closing),
        "metric_mean_best": _best(metrics, m.SCORE_MEAN, higher_is_better=higher_is_better),
        "metric_std_clients_final": _spread(scores),
        "metric_per_client": scores,
        "acc_mean_final": metrics.at(m.ACC_MEAN, closing),
        "acc_mean_best": _best(metrics, m.ACC_MEAN, higher_is_better=True),
        "acc_per_client": metrics.at(m.ACC_PER_CLIENT, closing),
        "upload_bytes": _total(metrics, m.UPLINK_BYTES),
        "download_bytes": _total(metrics, m.DOWNLINK_BYTES),
        "accept_rate_own": metrics.at(m.ACCEPT_RATE_OWN, SETUP_ROUND),
        "accept_rate_foreign": metrics.at(m.ACCEPT_RATE_FOREIGN, SETUP_ROUND),
        "coverage": _mean(metrics, m.COVERAGE),
        "purity": _mean(metrics, m.PURITY),
        "rejected_shares": _total(metrics, m.REJECTED),
        "seconds_total": _total(timings, m.SECONDS_ROUND, setup=True),
        "seconds_train": _total(timings, m.SECONDS_TRAIN, setup=True),
        "seconds_filter": _total(timings, m.SECONDS_FILTER, setup=True),
        "seconds_aggregate": _total(timings, m.SECONDS_AGGREGATE, setup=True),
        "peak_rss_bytes": max((value for _, value in timings.series(m.PEAK_RSS_BYTES)), default=None),
    }


def write_summary(
    folder: RunFolder, *, engine: str | None, metric_name: str | None, higher_is_better: bool | None
) -> Summary:
    """Write summary.json; returns what is in it."""
    summary = summarise(folder, engine=engine, metric_name=metric_name, higher_is_better=higher_is_better)
    write_atomic(folder.summary_json, (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())
    return summary


def client_figures(folder: RunFolder) -> dict[str, float]:
    """Last mean over clients of each number that evaluations (figures/*) and training (train/*) report by the way."""
    history = History.read(folder.metrics_jsonl)
    prefixes = (m.FIGURES_PREFIX, m.TRAIN_PREFIX)
    return {name: float(history.last(name)) for name in history.names() if name.startswith(prefixes)}


def read_summary(folder: RunFolder) -> Summary | None:
    """The summary that the run wrote; None where it has not got so far.

    Raises:
        DataError: summary.json is there but broken, or of another version.
    """
    try:
        summary = json.loads(folder.summary_json.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder.summary_json} cannot be read ({error}); delete it and run `fedkd report` again"
        ) from error
    version = summary.get("schema_version") if isinstance(summary, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{folder.summary_json} has schema_version {version!r}, expected {SCHEMA_VERSION}; "
            "delete it and run `fedkd report` again, or use the fedkd that wrote it"
        )
    return dict(summary)


def _dataset(config: Mapping[str, Any]) -> str | None:
    """The data set's name; a run that was judged on a validation split says so."""
    name = config.get("data.name")
    return f"{name}[validation]" if name and config.get("data.validation") else name


def _best(history: History, name: str, *, higher_is_better: bool | None) -> float | None:
    values = [value for _, value in history.series(name)]
    if not values or higher_is_better is None:
        return None
    return float(max(values) if higher_is_better else min(values))


def _spread(per_client: list[float | None] | None) -> float | None:
    values = [value for value in per_client or () if value is not None]
    return float(np.std(values)) if values else None


def _total(history: History, name: str, *, setup: bool = False) -> float | None:
    values = [value for round_id, value in history.series(name) if setup or round_id != SETUP_ROUND]
    return sum(values) if values else None


def _mean(history: History, name: str) -> float | None:
    values = [value for _, value in history.series(name)]
    return float(np.mean(values)) if values else None

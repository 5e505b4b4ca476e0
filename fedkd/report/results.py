"""Measured figures as data: one record per experiment and setting, with all that is needed to repeat it."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fedkd.errors import DataError
from fedkd.files import write_atomic
from fedkd.provenance import processor

FIGURES = (
    "metric_mean_final",
    "metric_mean_best",
    "acc_mean_final",
    "acc_mean_best",
    "metric_std_clients_final",
    "upload_bytes",
    "download_bytes",
    "accept_rate_own",
    "accept_rate_foreign",
    "coverage",
    "purity",
    "seconds_total",
    "peak_rss_bytes",
)


def make_record(
    *,
    experiment: str,
    overrides: Sequence[str],
    seeds: Sequence[int],
    summaries: Sequence[Mapping[str, Any]],
    environment: Mapping[str, Any],
    reported: Sequence[Mapping[str, float]] = (),
    into: str = "",
) -> dict[str, Any]:
    """One record from the summaries of the seeds.

    Args:
        reported: what the clients report beside the score, by seed.
        into: the results file that was asked for; "" where it has the experiment's name.
        environment: what env.json holds; the commit is that of the code that ran.
    """
    first = summaries[0]
    names = sorted({name for each in reported for name in each})
    command = ["python", "simulations/measure.py", experiment, *(f"-c {shlex.quote(pair)}" for pair in overrides)]
    return {
        "experiment": experiment,
        "overrides": list(overrides),
        "command": " ".join([*command, "--seeds", *map(str, seeds), *(["--into", into] if into else [])]),
        "commit": environment["git_commit"],
        "is_dirty": environment["git_dirty"],
        "versions": {name: environment[name] for name in ("fedkd", "flwr", "torch", "numpy", "python")},
        "hardware": {"processor": processor(), "cores": environment["cpu_count"], "platform": platform.machine()},
        **{key: first[key] for key in ("preset", "method", "scheme", "dataset", "partition", "num_clients", "rounds")},
        "engine": first["engine"],
        "seeds": list(seeds),
        "metric": first["metric_name"],
        "figures": {name: spread([summary[name] for summary in summaries]) for name in FIGURES},
        "client_figures": {name: spread([each.get(name) for each in reported]) for name in names},
    }


def spread(values: Sequence[float | None]) -> dict[str, Any] | None:
    """Mean, sample standard deviation (null for one value) and the values; null where the figure does not apply."""
    known = [float(value) for value in values if value is not None]
    if len(known) != len(values):
        return None
    return {"mean": fmean(known), "sd": stdev(known) if len(known) > 1 else None, "values": known}


def read_results(path: Path) -> list[dict[str, Any]]:
    """The records in a results file; an absent file has none. DataError where it is no list of records."""
    if not path.exists():
        return []
    try:
        records = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}; restore it, records are never edited by hand") from error
    if not isinstance(records, list):
        raise DataError(f"{path} holds a {type(records).__name__}, expected a list of records; restore it")
    return records


def append_result(path: Path, record: Mapping[str, Any]) -> None:
    """Add a record. What was measured before stays; readers take the latest of each setting."""
    write_atomic(path, (json.dumps([*read_results(path), record], indent=1) + "\n").encode())


def latest(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The last record of each (experiment, overrides), in the order in which the settings first appeared."""
    found: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for record in records:
        found[(record["experiment"], *record["overrides"])] = record
    return list(found.values())

"""What there is to choose from, read from the tables in the code."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from fedkd.data import DATASETS, PARTITIONS
from fedkd.exchange import CODECS, SCHEMES
from fedkd.filters import FILTERS
from fedkd.lookup import resolve
from fedkd.methods import METHODS
from fedkd.models import MODELS
from fedkd.presets import PRESETS
from fedkd.tasks import TASKS

TABLES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "tasks": ("task", TASKS),
    "methods": ("method", METHODS),
    "schemes": ("scheme", SCHEMES),
    "filters": ("filter", FILTERS),
    "codecs": ("codec", CODECS),
    "partitions": ("partition", PARTITIONS),
    "datasets": ("data", DATASETS),
    "models": ("model", MODELS),
}


def listing(kind: str) -> list[dict[str, Any]]:
    """Entries of a table: name, summary (first line of the docstring), path, and the keys with their defaults."""
    if kind == "presets":
        return [
            {"name": name, "summary": preset.summary, "keys": dict(preset.values)} for name, preset in PRESETS.items()
        ]
    group, table = TABLES[kind]
    entries = []
    for name, path in table.items():
        found = resolve(table, name, what=group)
        config = getattr(found, "Config", None)
        keys = {f"{group}.{f.name}": f.default for f in dataclasses.fields(config)} if config else {}
        summary = (inspect.getdoc(found) or "").partition("\n")[0]
        entry: dict[str, Any] = {"name": name, "summary": summary, "path": path, "keys": keys}
        if kind == "methods":
            entry |= {"tasks": sorted(found.tasks), "needs": sorted(found.needs), "space": found.space}
            entry |= dataclasses.asdict(found.about)
        elif kind == "tasks":
            entry |= {"metric": found.metric, "metric_higher_is_better": found.metric_higher_is_better}
        entries.append(entry)
    return entries

"""`fedkd list`: the tables, as data."""

from __future__ import annotations

import json

import pytest

from fedkd.listing import TABLES, listing
from fedkd.presets import PRESETS


@pytest.mark.parametrize("kind", [*TABLES, "presets"])
def test_every_entry_says_what_it_is(kind: str) -> None:
    entries = listing(kind)
    assert entries
    assert all(entry["summary"].strip() for entry in entries)
    assert json.loads(json.dumps(entries)) == entries


@pytest.mark.parametrize("kind", TABLES)
def test_all_of_the_table_is_listed(kind: str) -> None:
    assert [entry["name"] for entry in listing(kind)] == list(TABLES[kind][1])


def test_keys_are_those_of_the_configuration_with_their_defaults() -> None:
    soft_targets = next(entry for entry in listing("methods") if entry["name"] == "soft_targets")
    assert soft_targets["keys"]["method.temperature"] == 1.0
    assert soft_targets["tasks"] == ["classification", "image_text", "language", "segmentation"]
    assert soft_targets["space"] == "proxy"


def test_a_task_says_what_it_is_judged_by() -> None:
    language = next(entry for entry in listing("tasks") if entry["name"] == "language")
    assert (language["metric"], language["metric_higher_is_better"]) == ("loss", False)
    assert language["keys"] == {"task.pad": -1}


def test_presets_show_what_they_set() -> None:
    entries = {entry["name"]: entry for entry in listing("presets")}
    assert list(entries) == list(PRESETS)
    assert entries["edgefd"]["keys"]["filter.name"] == "kmeans"


def test_a_method_says_where_it_comes_from_and_what_it_exchanges() -> None:
    for entry in listing("methods"):
        assert {"name", "paper", "year", "tasks", "needs", "selects", "exchanges"} <= set(entry)
        assert 1990 < entry["year"] < 2100
        assert all(entry[key] for key in ("paper", "selects", "exchanges", "tasks"))

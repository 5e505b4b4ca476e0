"""Kinds of task: how outputs become rows and which metric counts."""

from __future__ import annotations

from collections.abc import Mapping

TASKS: Mapping[str, str] = {
    "classification": "fedkd.tasks.classification:Classification",
}

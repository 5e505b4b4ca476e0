"""Configuration of the data set."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data set, and where it lies."""

    name: str = "digits"  # an entry of DATASETS, or package.module:function of your own
    root: str = ""  # folder that holds the files; not used by embedded data

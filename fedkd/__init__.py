"""fedkd: federated distillation. Clients exchange outputs on a shared proxy set, never weights.

Importing the package imports nothing heavy; the names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fedkd.version import __version__

if TYPE_CHECKING:
    from fedkd.errors import FedKDError as FedKDError
    from fedkd.exchange.codec import Codec as Codec
    from fedkd.exchange.scheme import ServerScheme as ServerScheme
    from fedkd.experiment import Experiment as Experiment
    from fedkd.filters.base import Filter as Filter
    from fedkd.methods.base import LocalTrainer as LocalTrainer
    from fedkd.rows import Knowledge as Knowledge
    from fedkd.rows import Rows as Rows
    from fedkd.rows import Share as Share
    from fedkd.runner import run as run

_HOMES = {
    "Codec": "fedkd.exchange.codec",
    "Experiment": "fedkd.experiment",
    "FedKDError": "fedkd.errors",
    "Filter": "fedkd.filters.base",
    "Knowledge": "fedkd.rows",
    "LocalTrainer": "fedkd.methods.base",
    "Rows": "fedkd.rows",
    "ServerScheme": "fedkd.exchange.scheme",
    "Share": "fedkd.rows",
    "run": "fedkd.runner",
}
__all__ = [  # noqa: RUF022 - the version last
    "Codec",
    "Experiment",
    "FedKDError",
    "Filter",
    "Knowledge",
    "LocalTrainer",
    "Rows",
    "ServerScheme",
    "Share",
    "run",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fedkd' has no attribute {name!r}")

"""Reference models and adapters for models by name."""

from __future__ import annotations

from collections.abc import Mapping

MODELS: Mapping[str, str] = {
    "mlp": "fedkd.models.mlp:build_mlp",
}

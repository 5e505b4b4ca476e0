"""Reference models and adapters for models by name."""

from __future__ import annotations

from collections.abc import Mapping

MODELS: Mapping[str, str] = {
    "mlp": "fedkd.models.mlp:build_mlp",
    "cnn": "fedkd.models.cnn:build_cnn",
    "cnn_narrow": "fedkd.models.cnn:build_cnn_narrow",
    "cnn_wide": "fedkd.models.cnn:build_cnn_wide",
    "resnet8": "fedkd.models.resnet:build_resnet8",
    "resnet14": "fedkd.models.resnet:build_resnet14",
    "resnet20": "fedkd.models.resnet:build_resnet20",
}

LIBRARIES = ("torchvision", "timm")  # `<library>/<name>` takes a model of these

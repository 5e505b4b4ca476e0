"""Models of torchvision and timm by name, such as `torchvision/resnet18`. No weights are loaded."""

from __future__ import annotations

import torch
from torch import nn

from fedkd.errors import ConfigError
from fedkd.extras import need
from fedkd.lookup import nearest

# In training these answer with a tuple of logits, unless told not to.
_WITHOUT_SIDE_HEADS = {"aux_logits": False, "init_weights": False}
_OPTIONS = {"googlenet": _WITHOUT_SIDE_HEADS, "inception_v3": _WITHOUT_SIDE_HEADS}


def build_from_library(name: str, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
    """A freshly initialised model of a library, with `num_outputs` logits.

    Grey images are repeated to three channels, which these models expect.

    Raises:
        ConfigError: the library has no model of that name (the nearest right one is named).
        MissingExtraError: timm is not installed.
    """
    library, _, model_name = name.partition("/")
    if library == "torchvision":
        from torchvision import models

        known = models.list_models(module=models)
        _check_known(name, model_name, known)
        options = _OPTIONS.get(model_name, {})
        model: nn.Module = models.get_model(model_name, weights=None, num_classes=num_outputs, **options)
    else:
        timm = need("timm", extra="vision", what=f"model {name!r}")
        _check_known(name, model_name, timm.list_models())
        model = timm.create_model(model_name, pretrained=False, num_classes=num_outputs)
    return _Repeated(model) if input_shape[0] == 1 else model


class _Repeated(nn.Module):
    """Grey to three channels, then the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, c) of grey images (n, 1, h, w)."""
        out: torch.Tensor = self.model(x.expand(-1, 3, -1, -1))
        return out


def _check_known(name: str, model_name: str, known: list[str]) -> None:
    if model_name not in known:
        raise ConfigError(
            f"model.name is {name!r}, which its library does not have{nearest(model_name, known)}", key="model.name"
        )

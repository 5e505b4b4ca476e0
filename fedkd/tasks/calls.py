"""How tasks ask models that they have not built: plain modules, and those of libraries."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from fedkd.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn


def ask(model: nn.Module, *inputs: Tensor, **named: Tensor | None) -> Tensor:
    """The one tensor that `model(*inputs)` answers with.

    Args:
        named: inputs that not every model takes, such as `attention_mask`: those that are there and that the model's
            `forward` names go with it.

    Raises:
        ConfigError: the model answers with something that holds no such tensor.
    """
    known = _parameters(type(model).forward)
    given = {name: value for name, value in named.items() if value is not None and name in known}
    outputs = model(*inputs, **given)
    found = main_tensor(outputs)
    if found is None:
        raise ConfigError(
            f"model {type(model).__name__} answers with a {type(outputs).__name__}, expected a tensor, a mapping with "
            "'out', or something with .logits or .sample; wrap it in a module that returns its outputs alone",
            key="model.name",
        )
    return found


def main_tensor(outputs: object) -> Tensor | None:
    """The tensor itself, `outputs["out"]` (torchvision), `outputs.logits` or `.sample` (transformers, diffusers)."""
    import torch

    places = (
        outputs,
        outputs.get("out") if isinstance(outputs, Mapping) else None,
        getattr(outputs, "logits", None),
        getattr(outputs, "sample", None),
    )
    return next((place for place in places if isinstance(place, torch.Tensor)), None)


@functools.cache
def _parameters(forward: Callable[..., object]) -> frozenset[str]:
    """The names of its arguments."""
    return frozenset(inspect.signature(forward).parameters)

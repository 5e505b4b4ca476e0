"""How tasks ask models that they have not built: plain modules, and those of libraries."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
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
    from fedkd.models.outputs import logits_of

    known = _parameters(type(model).forward)
    given = {name: value for name, value in named.items() if value is not None and name in known}
    outputs = model(*inputs, **given)
    try:
        return logits_of(outputs)
    except TypeError as error:
        raise ConfigError(
            f"model {type(model).__name__} {error}; wrap it in a module that returns its outputs alone",
            key="model.name",
        ) from error


@functools.cache
def _parameters(forward: Callable[..., object]) -> frozenset[str]:
    """The names of its arguments."""
    return frozenset(inspect.signature(forward).parameters)

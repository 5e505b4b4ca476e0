"""How tasks ask models that they have not built: plain modules, and those of libraries."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

from fedkd.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

PRECISIONS = ("float32", "bf16")
_IS_NARROW: ContextVar[bool] = ContextVar("_IS_NARROW", default=False)


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """In which of PRECISIONS models that are asked within compute.

    bf16: torch.autocast around the forward pass alone. Weights and answers stay float32, and so does what is made of
    answers: losses, statistics, shares.
    """
    token = _IS_NARROW.set(name == "bf16")
    try:
        yield
    finally:
        _IS_NARROW.reset(token)


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
    is_narrow = _IS_NARROW.get()
    with _autocast(inputs[0]) if is_narrow else contextlib.nullcontext():
        outputs = model(*inputs, **given)
    try:
        found = logits_of(outputs)
        return found.float() if is_narrow else found
    except TypeError as error:
        raise ConfigError(
            f"model {type(model).__name__} {error}; wrap it in a module that returns its outputs alone",
            key="model.name",
        ) from error


def _autocast(x: Tensor) -> contextlib.AbstractContextManager[None]:
    import torch

    return torch.autocast(x.device.type, dtype=torch.bfloat16)


@functools.cache
def _parameters(forward: Callable[..., object]) -> frozenset[str]:
    """The names of its arguments."""
    return frozenset(inspect.signature(forward).parameters)

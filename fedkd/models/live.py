"""A module that many clients take turns with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fedkd.models.weights import restore

# torch has no public way to ask which hooks there are.
_MODULE_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
)
_TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
_HOOKED = "_output_capturing_hooks_installed"  # by which transformers remembers that it has hung its own hooks on


class Live:
    """A module and what it looked like when it was built, so that no client leaves anything behind for the next."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._names = tuple(module.state_dict())
        self._trains = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
        self._hooks = {key for hooks in _hooks(module) for key in hooks}
        self._hooked = {part for part in module.modules() if getattr(part, _HOOKED, False)}

    @property
    def is_intact(self) -> bool:
        """Whether it still has the tensors that it was built with."""
        return tuple(self.module.state_dict()) == self._names

    def fill(self, weights: Mapping[str, Tensor], *, strict: bool) -> None:
        """Copy `weights` into the module; see `restore` for what is refused."""
        held = self.module.state_dict()
        if tuple(weights) == self._names and all(held[name].shape == weights[name].shape for name in held):
            # The usual case, without what load_state_dict looks after besides: it took four times as long.
            torch._foreach_copy_(list(held.values()), list(weights.values()))
        else:
            restore(self.module, weights, strict=strict)

    def reset(self) -> nn.Module:
        """The module in training mode, without gradients and later hooks, each parameter trained or not as built."""
        for hooks in _hooks(self.module):
            for key in [key for key in hooks if key not in self._hooks]:
                del hooks[key]
        for part in self.module.modules():
            if part not in self._hooked:  # they came with the first call and are gone: the next one hangs them on again
                part.__dict__.pop(_HOOKED, None)
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(self._trains.get(name, True))
        self.module.zero_grad(set_to_none=True)
        return self.module.train()

    def freeze(self) -> nn.Module:
        """The module in evaluation mode, without gradients and later hooks."""
        return self.reset().eval().requires_grad_(False)


def _hooks(module: nn.Module) -> Iterator[dict[Any, Any]]:
    """Every dictionary of hooks in the module, keyed by numbers that are unique in the process."""
    for part in module.modules():
        yield from (getattr(part, name) for name in _MODULE_HOOKS)
    for parameter in module.parameters():
        yield from (hooks for name in _TENSOR_HOOKS if (hooks := getattr(parameter, name)) is not None)

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
        self._trains = {
            (id(part), name): parameter.requires_grad
            for part in module.modules()
            for name, parameter in part.named_parameters(recurse=False)
        }
        self._hooks = {key for hooks in _hooks(module) for key in hooks}
        self._hooked = {part for part in module.modules() if getattr(part, _HOOKED, False)}

    @property
    def is_intact(self) -> bool:
        """Whether it still has the tensors that it was built with."""
        return tuple(self.module.state_dict()) == self._names

    def fill(self, weights: Mapping[str, Tensor], *, strict: bool) -> None:
        """Copy `weights` into the module; see `restore` for what is refused."""
        held = self.module.state_dict()
        if held and tuple(weights) == self._names and all(held[name].shape == weights[name].shape for name in held):
            # The usual case, without what load_state_dict looks after besides: it took four times as long.
            torch._foreach_copy_(list(held.values()), list(weights.values()))
        else:
            restore(self.module, weights, strict=strict)

    def reset(self) -> nn.Module:
        """The module in training mode, without gradients and later hooks, each parameter trained or not as built."""
        is_training = True
        for part in self.module.modules():  # one walk, by hand: torch's own four took longer than a small model's step
            own = part.__dict__
            for name in _MODULE_HOOKS:
                if own.get(name):
                    self._unhook(own[name])
            if _HOOKED in own and part not in self._hooked:
                del own[_HOOKED]  # they came with the first call and are gone: the next one hangs them on again
            for name, parameter in own["_parameters"].items():
                if parameter is not None:
                    self._reset_parameter(part, name, parameter)
            is_training &= part.training
        return self.module if is_training else self.module.train()

    def _reset_parameter(self, part: nn.Module, name: str, parameter: nn.Parameter) -> None:
        for hooks in (getattr(parameter, each) for each in _TENSOR_HOOKS):
            if hooks:
                self._unhook(hooks)
        wanted = self._trains.get((id(part), name), True)
        if parameter.requires_grad != wanted:
            parameter.requires_grad_(wanted)
        parameter.grad = None

    def _unhook(self, hooks: dict[Any, Any]) -> None:
        for key in [key for key in hooks if key not in self._hooks]:
            del hooks[key]

    def freeze(self) -> nn.Module:
        """The module in evaluation mode, without gradients and later hooks."""
        return self.reset().eval().requires_grad_(False)


def _hooks(module: nn.Module) -> Iterator[dict[Any, Any]]:
    """Every dictionary of hooks in the module, keyed by numbers that are unique in the process."""
    for part in module.modules():
        yield from (getattr(part, name) for name in _MODULE_HOOKS)
    for parameter in module.parameters():
        yield from (hooks for name in _TENSOR_HOOKS if (hooks := getattr(parameter, name)) is not None)

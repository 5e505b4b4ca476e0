"""Masks plugged into named layers of a network while a block runs, and the specialised teachers that this makes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedkd.errors import ConfigError
from fedkd.lookup import nearest
from fedkd.tasks.calls import ask


@dataclass(frozen=True, eq=False)
class Plug:
    """A mask and the name of the layer whose output it multiplies."""

    layer: str
    mask: nn.Module


@contextlib.contextmanager
def plugged(model: nn.Module, plugs: Sequence[Plug]) -> Iterator[None]:
    """Inside the block each plug's layer gives its output times the mask; afterwards, or on an error, it does not.

    A layer's output is a tensor, or a tuple whose first part is masked. A mask with fewer axes than the output is
    broadcast over the last ones. Deviation: maps of one pixel stay maps; the authors' code flattens them.

    Raises:
        ConfigError: no such layer, or an output that is neither.
    """
    with contextlib.ExitStack() as hooks:
        for plug in plugs:
            handle = _layer(model, plug.layer).register_forward_hook(_hook(plug))
            hooks.callback(handle.remove)
        yield


def specialised(
    model: nn.Module, plugs: Sequence[Plug], inputs: tuple[Tensor, ...], *, hooks: str = "single"
) -> Float[Tensor, "e n c *at"]:
    """The logits of one specialised teacher per plug.

    `single`: each plug alone. `cumulative`: each plug together with all before it, which is what the authors' stage 3
    does, since it removes no hook before the last teacher has answered.

    Raises:
        ConfigError: no such layer, or no plugs.
    """
    if not plugs:
        raise ConfigError("no layers to mask; name at least one layer of each network")
    answers = []
    for number, plug in enumerate(plugs, start=1):
        with plugged(model, plugs[:number] if hooks == "cumulative" else [plug]):
            answers.append(ask(model, *inputs))
    return torch.stack(answers)


def feature_shapes(model: nn.Module, layers: Sequence[str], inputs: tuple[Tensor, ...]) -> list[tuple[int, ...]]:
    """The shape per sample of what each named layer puts out when `model` (evaluation mode) answers `inputs`.

    Raises:
        ConfigError: no such layer, or one that the model does not call: a mask there would do nothing.
    """
    seen: dict[str, tuple[int, ...]] = {}

    def watch(layer: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001 - torch's signature
            seen[layer] = tuple(_tensor_of(output, layer).shape[1:])

        return hook

    was_training = {module: module.training for module in model.modules()}
    with contextlib.ExitStack() as hooks, torch.no_grad():
        for layer in layers:
            hooks.callback(_layer(model, layer).register_forward_hook(watch(layer)).remove)
        model.eval()
        try:
            model(*inputs)
        finally:
            for module, training in was_training.items():
                module.training = training
    idle = [layer for layer in layers if layer not in seen]
    if idle:
        raise ConfigError(f"layer {idle[0]!r} of {type(model).__name__} is never called, so it cannot carry a mask")
    return [seen[layer] for layer in layers]


def _layer(model: nn.Module, name: str) -> nn.Module:
    names = [found for found, _ in model.named_modules(remove_duplicate=False) if found]
    if name not in names:
        known = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise ConfigError(f"{type(model).__name__} has no layer {name!r}{nearest(name, names)} Its layers are {known}")
    return model.get_submodule(name)


def _hook(plug: Plug) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:  # noqa: ARG001 - torch's signature
        features = _tensor_of(output, plug.layer)
        mask = plug.mask(features)
        masked = features * mask.reshape(mask.shape + (1,) * (features.dim() - mask.dim()))
        return masked if isinstance(output, Tensor) else (masked, *output[1:])

    return hook


def _tensor_of(output: Any, layer: str) -> Tensor:
    first = output[0] if isinstance(output, tuple) and output else output
    if not isinstance(first, Tensor):
        raise ConfigError(
            f"layer {layer!r} puts out a {type(output).__name__}, expected a tensor or a tuple that begins with one; "
            "name another layer"
        )
    return first

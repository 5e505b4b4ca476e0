"""Models of one architecture, of many clients, trained side by side: one forward and one backward pass for all.

Batches of m clients are laid one behind the other, (m * b, ...), so that layers without parameters run as they are. A
layer with parameters is replaced by a twin (`fedkd.models.twins`) that computes those of all clients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

from fedkd.models.optimizers import OptimizerState
from fedkd.models.twins import BUFFER, TWINS, WITHOUT_PARAMETERS, Descent, Progress, Twin, twin_of
from fedkd.types import Ids


def why_not_stackable(model: nn.Module) -> str:
    """What in the model cannot be trained side by side; "" where nothing is in the way.

    Samples must not meet (batch norm), nothing may be drawn (dropout), and every layer is one that is known here.
    """
    for name, part in model.named_modules():
        kind = type(part)
        if kind is nn.Dropout and part.p == 0:
            continue
        if kind is nn.Conv2d and (part.padding_mode != "zeros" or isinstance(part.padding, str)):
            return f"{name} pads with {part.padding_mode!r}"
        if kind not in TWINS and kind not in WITHOUT_PARAMETERS:
            return f"{name or 'the model'} is a {kind.__name__}"
    if len(list(model.named_modules(remove_duplicate=False))) > len(list(model.modules())):
        return "a layer stands in it twice"
    if not all(parameter.requires_grad for parameter in model.parameters()):
        return "some of its parameters are frozen"
    return ""


@final
class Stack:
    """The models of some clients. Load them, take steps, unload them; `architecture` only lends its layers."""

    def __init__(self, architecture: nn.Module, descent: Descent, *, device: str = "cpu") -> None:
        self._device = device
        self._progress = Progress(descent)
        self._names = [name for name, _ in architecture.named_parameters()]
        self._module = twin_of(architecture, self._progress).to(device).train()
        twins = {name: part for name, part in self._module.named_modules() if isinstance(part, Twin)}
        if isinstance(self._module, Twin):
            twins = {"": self._module}
        self._slots = {}
        for name in self._names:
            owner, _, own = name.rpartition(".")
            self._slots[name] = twins[owner].slots[own]

    def load(self, weights: Sequence[Mapping[str, Tensor]], optimizers: Sequence[OptimizerState]) -> None:
        """Take over one model for each client, in order, and the state of its optimiser."""
        for position, name in enumerate(self._names):
            buffers = [state.get(str(position), {}).get(BUFFER) for state in optimizers]
            self._slots[name].fill([each[name] for each in weights], buffers, self._device)

    def reorder(self, order: Ids) -> None:
        """Put the clients into another order: position i then holds the one that was at order[i]."""
        at = torch.from_numpy(order).to(self._device)
        for slot in self._slots.values():
            slot.reorder(at)

    def begin(self, active: int, lr: float) -> None:
        """Say that the next step is of the first `active` clients, and its learning rate."""
        self._progress.active, self._progress.lr = active, lr
        self._progress.step += 1

    def answer(self, x: Tensor) -> Tensor:
        """Logits (k * b, c) of the batches of the active clients, one behind the other."""
        out: Tensor = self._module(x)
        return out

    def step(self, loss: Tensor) -> None:
        """One step of every active client down the gradient of its part in `loss`, the sum over them."""
        torch.autograd.backward(loss)
        limit = self._progress.descent.clip_norm
        if not limit:
            return
        norm = torch.stack([slot.squared_norm() for slot in self._slots.values()]).sum(0).sqrt()
        factor = (limit / (norm + 1e-6)).clamp_max(1.0)  # as torch's clip_grad_norm_ has it
        for slot in self._slots.values():
            slot.take_scaled(factor)

    def unload(self) -> list[tuple[dict[str, Tensor], OptimizerState]]:
        """Each client's weights and optimiser state on the CPU, in the current order."""
        values = {name: slot.value.cpu().unbind() for name, slot in self._slots.items()}
        velocities = {
            str(position): slot.velocity.cpu().unbind()
            for position, slot in enumerate(self._slots.values())
            if slot.velocity is not None
        }
        clients = range(len(next(iter(values.values()))))
        return [
            (
                {name: each[i] for name, each in values.items()},
                {position: {BUFFER: each[i]} for position, each in velocities.items()},
            )
            for i in clients
        ]

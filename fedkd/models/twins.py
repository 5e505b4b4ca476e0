"""Layers of many clients as one, which also take the optimiser's step.

A twin holds one layer of all clients and computes them in one batched product. In the backward pass it takes the
optimiser's step itself, as part of the product that gives the gradient: the gradient of all clients is as large as all
their models, and writing it out and reading it back took twice as long as the rest of the step (MLP 784-64-10, 20
clients, batch 10).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from fedkd.models.resnet import Block

WITHOUT_PARAMETERS = (
    nn.Sequential,
    nn.Identity,
    nn.Flatten,
    nn.ReLU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.LeakyReLU,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    Block,
)
_ALIGNED = 64  # bytes; torch's own memory begins so
BUFFER = "momentum_buffer"  # torch's name of it, in the state of the optimiser


@dataclass(frozen=True, kw_only=True)
class Descent:
    """Settings of stochastic gradient descent, as torch.optim.SGD and clip_grad_norm_ have them."""

    momentum: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 0.0


@dataclass(eq=False)
class Progress:
    """What the twins of one stack have in common in a step."""

    descent: Descent
    lr: float = 0.0
    active: int = 0  # the first so many clients take part
    step: int = 0


@final
class Slot:
    """One parameter of all clients."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.value = torch.empty(0)
        self.velocity: Tensor | None = None
        self._gradient: Tensor | None = None

    def fill(self, values: Sequence[Tensor], velocities: Sequence[Tensor | None], device: str) -> None:
        """Take over the parameter (and its momentum, None for none yet) of each client."""
        self.value = _stack(values).to(device)
        descent = self._progress.descent
        self.velocity = None
        if descent.momentum:
            self.velocity = torch.zeros_like(self.value)
            for i, velocity in enumerate(velocities):
                if velocity is not None:
                    self.velocity[i] = velocity
        self._gradient = torch.empty_like(self.value) if descent.clip_norm else None

    @property
    def active(self) -> Tensor:
        """The values (k, ...) of the clients that take part."""
        return self.value[: self._progress.active]

    def reorder(self, order: Tensor) -> None:
        """Put the clients into another order."""
        self.value = self.value[order]
        self.velocity = None if self.velocity is None else self.velocity[order]

    def take(self, gradient: Tensor) -> None:
        """One step down the gradient (k, ...); with clipping, only once all gradients are known."""
        k, descent = self._progress.active, self._progress.descent
        if self._gradient is not None:
            self._gradient[:k] = gradient
        elif self.velocity is not None:
            self._roll(self.velocity[:k].mul_(descent.momentum).add_(gradient))
        else:
            self._decay(self.value[:k]).sub_(gradient, alpha=self._progress.lr)

    def take_product(self, left: Tensor, right: Tensor) -> None:
        """`take(left @ right)`, of (k, r, n) and (k, n, c), without the gradient in between."""
        k, lr, descent = self._progress.active, self._progress.lr, self._progress.descent
        if self._gradient is not None:
            torch.bmm(left, right, out=self._gradient[:k])
        elif self.velocity is not None:
            self._roll(self.velocity[:k].baddbmm_(left, right, beta=descent.momentum))
        else:
            self.value[:k].baddbmm_(left, right, beta=1 - lr * descent.weight_decay, alpha=-lr)

    def squared_norm(self) -> Tensor:
        """Of the gradients (k,) that wait to be clipped."""
        assert self._gradient is not None
        return self._gradient[: self._progress.active].flatten(1).square().sum(1)

    def take_scaled(self, factor: Tensor) -> None:
        """The step down the waiting gradient, times a factor (k,) for each client."""
        assert self._gradient is not None
        k, descent = self._progress.active, self._progress.descent
        gradient = self._gradient[:k].mul_(factor.view(-1, *[1] * (self.value.ndim - 1)))
        if self.velocity is not None:
            self._roll(self.velocity[:k].mul_(descent.momentum).add_(gradient))
        else:
            self._decay(self.value[:k]).sub_(gradient, alpha=self._progress.lr)

    def _roll(self, velocity: Tensor) -> None:
        value = self.active
        if self._progress.descent.weight_decay:
            velocity.add_(value, alpha=self._progress.descent.weight_decay)
        value.sub_(velocity, alpha=self._progress.lr)

    def _decay(self, value: Tensor) -> Tensor:
        decay = self._progress.descent.weight_decay
        return value.mul_(1 - self._progress.lr * decay) if decay else value


class Twin(nn.Module):
    """A layer of all clients.

    `anchor` needs a gradient, so that the backward pass comes by even where the layer is the first.
    """

    def __init__(self, layer: nn.Module, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._last = 0
        self.slots = {name: Slot(progress) for name, _ in layer.named_parameters(recurse=False)}
        self.anchor = torch.zeros((), requires_grad=True)

    def visit(self) -> None:
        """RuntimeError where the layer answers twice in a step: its parameters would move in between."""
        if self._last == self._progress.step:
            raise RuntimeError(f"a {type(self).__name__.strip('_')} layer was asked twice in one step")
        self._last = self._progress.step

    def value(self, name: str) -> Tensor | None:
        """The parameter (k, ...) of the clients that take part; None where the layer has none of that name."""
        slot = self.slots.get(name)
        return None if slot is None else slot.active


@final
class _Linear(Twin):
    def __init__(self, layer: nn.Linear, progress: Progress) -> None:
        super().__init__(layer, progress)

    def forward(self, x: Tensor) -> Tensor:
        self.visit()
        out: Tensor = _LinearPass.apply(x, self.anchor, self)
        return out


class _LinearPass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, twin: _Linear) -> Tensor:  # noqa: ARG004
        weight, bias = twin.slots["weight"].active, twin.value("bias")
        folded = x.reshape(len(weight), -1, x.shape[-1])
        ctx.twin, ctx.shape = twin, x.shape
        ctx.save_for_backward(folded)
        out = torch.bmm(folded, weight.mT) if bias is None else torch.baddbmm(bias[:, None], folded, weight.mT)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:
        (folded,), slots = ctx.saved_tensors, ctx.twin.slots
        gradient = gradient.reshape(len(folded), -1, gradient.shape[-1])
        below = torch.bmm(gradient, slots["weight"].active).view(ctx.shape) if ctx.needs_input_grad[0] else None
        slots["weight"].take_product(gradient.mT, folded)
        if "bias" in slots:
            slots["bias"].take(gradient.sum(1))
        return below, None, None


@final
class _Conv(Twin):
    def __init__(self, layer: nn.Conv2d, progress: Progress) -> None:
        super().__init__(layer, progress)
        self.options = (layer.stride, layer.padding, layer.dilation, False, (0, 0), layer.groups)

    def forward(self, x: Tensor) -> Tensor:
        self.visit()
        out: Tensor = _ConvPass.apply(x, self.anchor, self)
        return out


class _ConvPass(torch.autograd.Function):
    """Client by client: grouped convolutions were slower on the CPU, and im2col as slow (docs/engine.md)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, twin: _Conv) -> Tensor:  # noqa: ARG004
        weight, bias = twin.slots["weight"].active, twin.value("bias")
        biases = [None] * len(weight) if bias is None else bias.unbind()
        ctx.twin = twin
        ctx.save_for_backward(x)
        parts = zip(_parts(x, len(weight)), weight.unbind(), biases, strict=True)
        return torch.cat([torch.ops.aten.convolution(part, w, b, *twin.options) for part, w, b in parts])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:
        (x,), slots = ctx.saved_tensors, ctx.twin.slots
        weight = slots["weight"].active
        sizes = [weight.shape[1]] if "bias" in slots else None
        wanted = [ctx.needs_input_grad[0], True, "bias" in slots]
        found = [
            torch.ops.aten.convolution_backward(g, part, w, sizes, *ctx.twin.options, wanted)
            for g, part, w in zip(_parts(gradient, len(weight)), _parts(x, len(weight)), weight.unbind(), strict=True)
        ]
        below, of_weight, of_bias = zip(*found, strict=True)
        slots["weight"].take(torch.stack(of_weight))
        if "bias" in slots:
            slots["bias"].take(torch.stack(of_bias))
        return torch.cat(below) if ctx.needs_input_grad[0] else None, None, None


def _parts(x: Tensor, clients: int) -> list[Tensor]:
    """Each client's part. Kernels may round otherwise where memory is not aligned, and no place is to be better."""
    return [part if part.data_ptr() % _ALIGNED == 0 else part.clone() for part in x.chunk(clients)]


@final
class _Norm(Twin):
    """Layer or group norm: the statistics are each sample's own; scale and shift are each client's."""

    def __init__(self, layer: nn.LayerNorm | nn.GroupNorm, progress: Progress) -> None:
        super().__init__(layer, progress)
        self._plain = copy.copy(layer)
        self._plain._parameters = {"weight": None, "bias": None}
        self.is_by_channel = isinstance(layer, nn.GroupNorm)

    def forward(self, x: Tensor) -> Tensor:
        plain: Tensor = self._plain(x)
        if not self.slots:
            return plain
        self.visit()
        out: Tensor = _AffinePass.apply(plain, self.anchor, self)
        return out


class _AffinePass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, twin: _Norm) -> Tensor:  # noqa: ARG004
        weight, bias = twin.slots["weight"].active, twin.value("bias")
        ctx.twin = twin
        ctx.save_for_backward(x)
        out = _folded(x, len(weight)) * _spread(weight, x, twin.is_by_channel)
        if bias is not None:
            out += _spread(bias, x, twin.is_by_channel)
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,), twin = ctx.saved_tensors, ctx.twin
        weight = twin.slots["weight"].active
        folded = _folded(gradient, len(weight))
        below = (folded * _spread(weight, x, twin.is_by_channel)).view(x.shape)
        own = weight.shape[1:]
        # All dimensions but the client's and those of the parameter: (m, b, c, ...) by channel, (m, ..., own) else.
        sums = tuple(d for d in range(1, folded.ndim) if (d != 2 if twin.is_by_channel else d < folded.ndim - len(own)))
        twin.slots["weight"].take((folded * _folded(x, len(weight))).sum(sums))
        if "bias" in twin.slots:
            twin.slots["bias"].take(folded.sum(sums))
        return below, None, None


def _folded(x: Tensor, clients: int) -> Tensor:
    return x.reshape(clients, -1, *x.shape[1:])


def _spread(parameter: Tensor, x: Tensor, is_by_channel: bool) -> Tensor:
    """The parameter (k, ...) in the shape that multiplies (k, b, ...)."""
    if is_by_channel:
        return parameter.view(len(parameter), 1, -1, *[1] * (x.ndim - 2))
    return parameter.view(len(parameter), *[1] * (x.ndim - parameter.ndim + 1), *parameter.shape[1:])


TWINS: Mapping[type[nn.Module], Callable[..., Twin]] = {
    nn.Linear: _Linear,
    nn.Conv2d: _Conv,
    nn.LayerNorm: _Norm,
    nn.GroupNorm: _Norm,
}


def twin_of(layer: nn.Module, progress: Progress) -> nn.Module:
    """The layer with all parametric parts replaced; parts without parameters are shared, for they keep no state."""
    if type(layer) in TWINS:
        return TWINS[type(layer)](layer, progress)
    if type(layer) is nn.Dropout:
        return nn.Identity()  # of probability 0; torch draws for it all the same
    twin = copy.copy(layer)
    twin._modules = {name: None if part is None else twin_of(part, progress) for name, part in layer._modules.items()}
    return twin


def _stack(values: Sequence[Tensor]) -> Tensor:
    """(m, ...), each client's part in the memory format that it came in."""
    if values[0].ndim == 4 and values[0].is_contiguous(memory_format=torch.channels_last):
        return torch.stack([value.permute(0, 2, 3, 1) for value in values]).permute(0, 1, 4, 2, 3)
    return torch.stack(list(values))

"""What the stages of MST-Distill work on: samples of two modalities, three networks, and the specialised teachers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedkd.methods.mst_distill.config import MSTDistillConfig
from fedkd.methods.mst_distill.hooks import Plug, feature_shapes, specialised
from fedkd.methods.mst_distill.networks import build_mask
from fedkd.types import Ids


@dataclass(frozen=True, eq=False)
class Paired:
    """Labelled samples: the student's modality `a`, the other one `b` (None where it is lacking), labels `y`."""

    a: Tensor
    b: Tensor | None
    y: Tensor

    def __len__(self) -> int:
        return len(self.a)

    def at(self, index: Ids) -> Paired:
        """The samples at these positions."""
        at = torch.from_numpy(index)
        return Paired(self.a[at], None if self.b is None else self.b[at], self.y[at])


@dataclass(frozen=True, eq=False)
class ProxyItems:
    """Unlabelled samples with what the federation says about them: `z_bar`, logits (or log-probabilities)."""

    a: Tensor
    b: Tensor | None
    z_bar: Tensor

    def __len__(self) -> int:
        return len(self.a)


@dataclass(frozen=True, eq=False)
class Networks:
    """T (both modalities), A (the other one) and S (the student's)."""

    teacher: nn.Module
    auxiliary: nn.Module
    student: nn.Module

    def logits(self, a: Tensor, b: Tensor) -> list[Tensor]:
        """What T, A and S say."""
        return [self.teacher(a, b), self.auxiliary(b), self.student(a)]

    def modules(self) -> tuple[nn.Module, ...]:
        """T, A and S."""
        return self.teacher, self.auxiliary, self.student


@dataclass(frozen=True, eq=False)
class Specialists:
    """The 2L specialised teachers: T with each of its masks, then A with each of its own."""

    teacher: nn.Module
    auxiliary: nn.Module
    teacher_plugs: tuple[Plug, ...]
    auxiliary_plugs: tuple[Plug, ...]
    hooks: str = "single"

    def __len__(self) -> int:
        return len(self.teacher_plugs) + len(self.auxiliary_plugs)

    @property
    def masks(self) -> list[nn.Module]:
        """M_1 .. M_2L."""
        return [plug.mask for plug in (*self.teacher_plugs, *self.auxiliary_plugs)]

    def logits(self, a: Tensor, b: Tensor) -> Float[Tensor, "e n c *at"]:
        """t_1 .. t_2L."""
        of_teacher = specialised(self.teacher, self.teacher_plugs, (a, b), hooks=self.hooks)
        of_auxiliary = specialised(self.auxiliary, self.auxiliary_plugs, (b,), hooks=self.hooks)
        return torch.cat([of_teacher, of_auxiliary])

    def alone(self, number: int, a: Tensor, b: Tensor) -> Float[Tensor, "n c *at"]:
        """t_j with its own mask alone, whatever `hooks` says; `number` = j - 1."""
        of_auxiliary = number - len(self.teacher_plugs)
        if of_auxiliary < 0:
            return specialised(self.teacher, [self.teacher_plugs[number]], (a, b))[0]
        return specialised(self.auxiliary, [self.auxiliary_plugs[of_auxiliary]], (b,))[0]


def build_specialists(networks: Networks, config: MSTDistillConfig, a: Tensor, b: Tensor) -> Specialists:
    """Fresh masks, drawn from torch's current random state, for the configured layers.

    `a`, `b`: a few samples; one forward pass tells how wide the layers are.

    Raises:
        ConfigError: a layer that is not there or not called, or that no mask of the configured size fits.
    """

    def plugs(model: nn.Module, layers: tuple[str, ...], inputs: tuple[Tensor, ...]) -> tuple[Plug, ...]:
        made = []
        for layer, shape in zip(layers, feature_shapes(model, layers, inputs), strict=True):
            mask = build_mask(
                shape, hidden_factor=config.hidden_factor, heads=config.heads, limit=config.mask_limit
            ).to(a.device)
            made.append(Plug(layer, mask))
        return tuple(made)

    return Specialists(
        networks.teacher,
        networks.auxiliary,
        plugs(networks.teacher, config.layers_of_teacher, (a, b)),
        plugs(networks.auxiliary, config.layers_of_auxiliary, (b,)),
        config.hooks,
    )

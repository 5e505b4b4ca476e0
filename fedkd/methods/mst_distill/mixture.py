"""What the stages of MST-Distill work on: samples of two modalities, three networks, and the specialised teachers."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedkd.data.base import Samples
from fedkd.methods.mst_distill.config import MSTDistillConfig
from fedkd.methods.mst_distill.hooks import Plug, feature_shapes, specialised
from fedkd.methods.mst_distill.networks import Unmasked, build_mask
from fedkd.tasks.base import Task
from fedkd.tasks.batches import PairBatch
from fedkd.tasks.calls import ask
from fedkd.types import Ids

Make: TypeAlias = Callable[[str, Callable[[], nn.Module]], nn.Module]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Samples of one client: `at(index)` gives a batch, `size` says how many there are."""

    at: Callable[[Ids], PairBatch]
    size: int

    def __len__(self) -> int:
        return self.size

    @classmethod
    def of(cls, task: Task[PairBatch], samples: Samples, device: str) -> Pairs:
        """The samples as batches on the device."""
        return cls(lambda index: task.batch(samples, index, device), len(samples))


@dataclass(frozen=True, eq=False)
class Networks:
    """T (both modalities), A (the other one) and S (the student's)."""

    teacher: nn.Module
    auxiliary: nn.Module
    student: nn.Module

    def logits(self, a: Tensor, b: Tensor) -> list[Tensor]:
        """What T, A and S say."""
        return [ask(self.teacher, a, b), ask(self.auxiliary, b), ask(self.student, a)]

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

    def modules(self) -> tuple[nn.Module, ...]:
        """T, A and the masks."""
        return self.teacher, self.auxiliary, *self.masks

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


def build_specialists(networks: Networks, config: MSTDistillConfig, a: Tensor, b: Tensor, *, make: Make) -> Specialists:
    """T and A with a mask for each of the configured layers, or with `Unmasked` where the configuration wants none.

    Args:
        a, b: a few samples; one forward pass tells how wide the layers are.
        make: gives the mask of a name ("mask_1" and so on), from what builds it.

    Raises:
        ConfigError: a layer that is not there or not called, or that no mask of the configured size fits.
    """
    numbers = itertools.count(1)

    def plugs(model: nn.Module, layers: tuple[str, ...], inputs: tuple[Tensor, ...]) -> tuple[Plug, ...]:
        made = []
        for layer, shape in zip(layers, feature_shapes(model, layers, inputs), strict=True):
            build = functools.partial(
                build_mask, shape, hidden_factor=config.hidden_factor, heads=config.heads, limit=config.mask_limit
            )
            made.append(Plug(layer, make(f"mask_{next(numbers)}", build if config.masks else Unmasked)))
        return tuple(made)

    return Specialists(
        networks.teacher,
        networks.auxiliary,
        plugs(networks.teacher, config.layers_of_teacher, (a, b)),
        plugs(networks.auxiliary, config.layers_of_auxiliary, (b,)),
        config.hooks,
    )

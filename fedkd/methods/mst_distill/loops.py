"""The pieces of a training loop that the stages of MST-Distill share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from fedkd.errors import ConfigError
from fedkd.functional.batching import batch_starts
from fedkd.methods.local_training import batches
from fedkd.tasks.batches import PairBatch
from fedkd.types import Ids

Streams: TypeAlias = Callable[[str], np.random.Generator]  # a generator by name, as in the trainer's context


def epoch(rng: np.random.Generator, size: int, batch: int) -> Iterator[Ids]:
    """The batches of one shuffled pass, as positions."""
    return batches(rng, size, batch, len(batch_starts(size, batch)))


@torch.no_grad()
def answers(answer: Callable[[Ids], Tensor], size: int, batch: int) -> Tensor:
    """What `answer` gives for positions 0 .. size - 1 in batches, joined; without gradients. `size` >= 1."""
    return torch.cat([answer(np.arange(start, min(start + batch, size))) for start in range(0, size, batch)])


def mean_of(losses: list[Tensor]) -> float:
    """Mean of scalars; 0 for none."""
    return float(torch.stack(losses).mean()) if losses else 0.0


def other(some: PairBatch) -> Tensor:
    """The other modality.

    Raises:
        ConfigError: the samples lack it.
    """
    if some.b is None:
        raise ConfigError("training of T, A and the masks needs both modalities, but the samples have one")
    return some.b

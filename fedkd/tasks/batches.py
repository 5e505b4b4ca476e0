"""The typed batches of the tasks: what a trainer sees in `fit`. Tensors on the client's device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from fedkd.errors import DataError
from fedkd.types import Array, Ids

if TYPE_CHECKING:
    from torch import Tensor

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """Classification: x (b, ...) images, features or tokens; y (b,) class numbers."""

    x: Tensor
    y: Tensor | None


@dataclass(frozen=True, eq=False)
class SegBatch:
    """Segmentation: images (b, channels, H, W); masks (b, H, W) class numbers, IGNORE where nothing counts."""

    images: Tensor
    masks: Tensor | None


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Language: tokens (b, T); labels (b, T) the token after each, IGNORE where it does not count.

    attention (b, T) is true for tokens and false for padding; None where nothing is padding.
    """

    tokens: Tensor
    labels: Tensor
    attention: Tensor | None


@dataclass(frozen=True, eq=False)
class PairBatch:
    """Two modalities: a (b, ...) and, where the samples have it, b (b, ...); y (b,) class numbers."""

    a: Tensor
    b: Tensor | None
    y: Tensor | None


@dataclass(frozen=True, eq=False)
class DenoiseBatch:
    """Diffusion: noisy (b, ...) latents, t (b,) time steps, prompt (b, length) tokens; noise, what is to be found."""

    noisy: Tensor
    t: Tensor
    prompt: Tensor | None
    noise: Tensor | None


def tensor_of(array: Array, index: Ids, device: str) -> Tensor:
    """The rows `index` of an array on the device: whole numbers as int64, which embeddings and losses take.

    Where `index` is a range, as in a prediction, it is the array's own memory: not to be written to. A GPU may keep a
    copy of the array (fedkd.tasks.resident).
    """
    import torch

    is_range = len(index) > 1 and index[-1] - index[0] == len(index) - 1 and (np.diff(index) == 1).all()
    kept = None
    if device != "cpu":
        from fedkd.tasks.resident import residents

        kept = residents(device)
    if kept is None:
        rows = array[index[0] : index[-1] + 1] if is_range and array.flags.writeable else array[index]
        tensor = torch.from_numpy(rows).to(device)
    else:
        tensor = kept.rows(array, slice(int(index[0]), int(index[-1]) + 1) if is_range else index)
    return tensor if tensor.is_floating_point() or tensor.dtype == torch.bool else tensor.long()


def needed(targets: _T | None) -> _T:
    """The targets of a batch; DataError where there are none."""
    if targets is None:
        raise DataError("these samples have no labels, and a private loss needs labels")
    return targets

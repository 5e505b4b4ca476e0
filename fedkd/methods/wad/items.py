"""All items of a client under one numbering: its labelled ones, its unlabelled ones, then the proxy set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedkd.data.base import Samples
from fedkd.errors import DataError
from fedkd.methods.base import Context
from fedkd.types import Ids


@dataclass(frozen=True, eq=False, kw_only=True)
class Items:
    """Inputs (m, ...) on the device, and where each part of them ends.

    Attributes:
        labels: (l,) classes of the labelled ones, ids 0..l-1.
        proxy_start: id of the first proxy item: those between are the client's own unlabelled ones.
        groups: true classes of the own unlabelled ones, where they are known: for figures alone.
    """

    inputs: Tensor
    labels: Tensor
    proxy_start: int
    groups: Ids | None

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def proxy(self) -> Tensor:
        """Inputs (p, ...) of the proxy items."""
        return self.inputs[self.proxy_start :]


def items_of(ctx: Context) -> Items:
    """The client's items. The whole proxy set is unlabelled data, whatever the filter accepts: WAD weighs it itself.

    Raises:
        DataError: nothing is labelled, or inputs are tokens, which have no random views.
    """
    train = ctx.data.train
    if not len(train):
        raise DataError(
            f"client {ctx.client_id} has no labelled sample, and WAD compares all others with labelled ones; take "
            "another partition, or other classes in roles.targets"
        )
    if train.x.dtype.kind != "f":
        raise DataError(
            f"method 'wad' got inputs of type {train.x.dtype}, expected images or features: tokens have no random "
            "views; choose another method or data set"
        )
    unlabelled = ctx.data.role("unlabelled") if ctx.data.has("unlabelled") else None
    parts = [part for part in (train, unlabelled, None if ctx.proxy is None else ctx.proxy.samples) if part is not None]
    inputs = torch.cat([_inputs(ctx, part) for part in parts])
    size = len(train) + (0 if unlabelled is None else len(unlabelled))
    labels = torch.from_numpy(train.labels.astype(np.int64)).to(ctx.device)
    return Items(
        inputs=inputs,
        labels=labels,
        proxy_start=size,
        groups=None if unlabelled is None else unlabelled.groups,
    )


def _inputs(ctx: Context, samples: Samples) -> Tensor:
    found: Tensor = ctx.task.batch(samples.inputs(), np.arange(len(samples)), ctx.device).x
    return found

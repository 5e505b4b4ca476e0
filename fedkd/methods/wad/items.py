"""All items of a client under one numbering (labelled, unlabelled, proxy set), and the random views that fit them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedkd.data.base import Samples
from fedkd.errors import ConfigError, DataError
from fedkd.methods.base import Context
from fedkd.methods.wad.config import WADConfig
from fedkd.methods.wad.views import OF_PIXELS, View, WeakView, on_inputs
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


def view_of(table: Mapping[str, View], config: WADConfig, items: Items) -> View:
    """The configured view of inputs.

    Deviation: pixels in 0..1 are found from the range of each channel over the client's items, since a trainer is not
    told how its data set was scaled.
    """
    view = table[config.view]
    if config.view not in OF_PIXELS:
        return view
    _check_images(items, key="view", value=config.view, instead="noise")
    low, high = items.inputs.amin((0, 2, 3)), items.inputs.amax((0, 2, 3))
    span = torch.where(high > low, high - low, 1.0)
    return on_inputs(view, mean=-low / span, sd=1 / span)  # pixel = (input - low) / span


def student_view(config: WADConfig, items: Items) -> View | None:
    """What the student sees of its inputs in training; None: the inputs as they are."""
    if not config.student_views:
        return None
    _check_images(items, key="student_views", value=True, instead=False)
    return WeakView()


def _check_images(items: Items, *, key: str, value: object, instead: object) -> None:
    if items.inputs.dim() != 4:
        raise ConfigError(
            f"method.{key} is {value!r}, which needs images (channels, height, width), but inputs have shape "
            f"{tuple(items.inputs.shape[1:])}; set method.{key} = {instead!r}",
            key=f"method.{key}",
        )


def _inputs(ctx: Context, samples: Samples) -> Tensor:
    found: Tensor = ctx.task.batch(samples.inputs(), np.arange(len(samples)), ctx.device).x
    return found

"""Whether to train models side by side, and how many: looked up in a table of measured gains, never guessed."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from importlib.resources import files

from torch import nn

from fedkd.models.stacked import why_not_stackable

LEAST_GAIN = 1.1  # a stack has to be that much faster than one client after the other
ALWAYS = 20  # clients side by side where the table is not asked


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One line of the table: how many times faster than one after the other, on one kind of device."""

    device: str  # cpu, cuda
    model: str
    parameters: int
    batch: int
    clients: int  # side by side
    gain: float


def stack_size(model: nn.Module, architecture: str, *, device: str, mode: str) -> int:
    """How many clients with such a model to train side by side; 1: train each by its trainer's `fit`.

    `auto` asks the table for the device and the architecture; what was not measured, or only with models of another
    size, trains alone. `always` asks it only how many.
    """
    if mode == "never" or why_not_stackable(model):
        return 1
    line = nearest(table(), device, architecture, sum(each.numel() for each in model.parameters()))
    if mode == "always":
        return ALWAYS if line is None else line.clients
    return line.clients if line is not None and line.gain >= LEAST_GAIN else 1


def nearest(lines: tuple[Measured, ...], device: str, model: str, parameters: int) -> Measured | None:
    """The line measured with the model of nearest size, at most twice as large or as small."""
    alike = [line for line in lines if line.device == device.partition(":")[0] and line.model == model]
    alike = [line for line in alike if 0.5 <= parameters / line.parameters <= 2]
    return min(alike, key=lambda line: abs(math.log(parameters / line.parameters)), default=None)


@functools.cache
def table() -> tuple[Measured, ...]:
    """The measured gains; `fedkd bench stacking` makes them."""
    text = files("fedkd.models").joinpath("stacks.json").read_text(encoding="utf-8")
    return tuple(Measured(**line) for line in json.loads(text)["measured"])

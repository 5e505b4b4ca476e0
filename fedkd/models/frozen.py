"""Models that are asked but not trained, for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def frozen(*models: nn.Module) -> Iterator[None]:
    """Inside the block the models are in evaluation mode and take no gradient; afterwards they are as before.

    Not stepping a network is not enough: its gradients would be computed and kept, and batch norm would move. Gradients
    pass through the models to their inputs; where none are wanted, add `torch.no_grad()`.
    """
    trained = [(parameter, parameter.requires_grad) for model in models for parameter in model.parameters()]
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval().requires_grad_(False)
        yield
    finally:
        for parameter, needs in trained:
            parameter.requires_grad_(needs)
        for module, training in modes:
            module.training = training

"""Optimisers whose whole state goes in and comes out as a tree of tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn, optim

OptimizerState = dict[str, Any]


def make_optimizer(
    name: str,
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
) -> optim.Optimizer:
    """SGD (with momentum), Adam or AdamW over `parameters`, or over groups of them as torch takes them."""
    if name == "adam":
        return optim.Adam(parameters, lr=lr, weight_decay=weight_decay)
    if name == "adamw":
        return optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
    return optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)


def optimizer_state(optimizer: optim.Optimizer) -> OptimizerState:
    """Copies of the optimiser's tensors, keyed by the position of the parameter and the name of the slot."""
    slots = optimizer.state_dict()["state"]
    return {
        str(position): {
            slot: value.detach().to("cpu", copy=True)
            for slot, value in of_parameter.items()
            if isinstance(value, Tensor)
        }
        for position, of_parameter in slots.items()
    }


def load_optimizer(optimizer: optim.Optimizer, state: OptimizerState) -> None:
    """Put a state from `optimizer_state` back; an empty one leaves the optimiser fresh."""
    if not state:
        return
    groups = optimizer.state_dict()["param_groups"]
    # Copies: torch keeps the tensors it is given, and training would then change the caller's state.
    slots = {int(position): {slot: value.clone() for slot, value in of.items()} for position, of in state.items()}
    optimizer.load_state_dict({"state": slots, "param_groups": groups})

"""The running average of the student's weights, for sampling; never the teacher."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedkd.functional.skd_cag import ema_retention


@torch.no_grad()
def follow(
    average: Mapping[str, Tensor], weights: Mapping[str, Tensor], *, step: int, decay: float, compat: str = "paper"
) -> None:
    """Move `average` towards `weights` in place, as update number `step` (from 1) over all rounds.

    What is no floating-point number (a counter) is copied. Source: authors' `EMAModel`. Deviation: `paper` retains what
    the warm-up says; see `ema_retention`.
    """
    retention = ema_retention(step, decay=decay, compat=compat)
    for name, slow in average.items():
        fast = weights[name].detach()
        if slow.is_floating_point():
            slow.lerp_(fast.to(slow), 1.0 - retention)
        else:
            slow.copy_(fast)

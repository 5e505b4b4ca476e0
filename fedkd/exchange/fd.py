"""FD on the server: class means, answered to each client without its own voice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from fedkd.exchange.scheme import ServerContext, ServerScheme, ServerState
from fedkd.rows import Knowledge, Rows, Share


@dataclass(frozen=True, kw_only=True)
class LeaveOneOutConfig:
    """Nothing to choose."""


@final
class LeaveOneOut(ServerScheme):
    """g_{-c}(y) = (sum over clients that have y, less c's own) / (N_y - 1), per client; Jeong et al. 2018.

    Clients count alike, whatever their number of samples. A class that only this client has is absent from its answer.
    Deviation: the mean runs over clients that have the class; the public reference code averages all of them.
    """

    Config: ClassVar[type] = LeaveOneOutConfig
    spaces = frozenset({"class"})
    kinds = frozenset({"logits"})

    def __init__(self, config: LeaveOneOutConfig) -> None:
        self.config = config

    def init(self, ctx: ServerContext) -> ServerState:  # noqa: ARG002 - the contract's arguments
        """Nothing."""
        return {}

    def step(self, ctx: ServerContext, state: ServerState, shares: Sequence[Share]) -> tuple[ServerState, Knowledge]:
        """One answer for each client, whether it spoke or not."""
        spoken = {share.client_id: rows for share in shares for rows in share.rows if len(rows) and not rows.variant}
        if not spoken:
            return state, Knowledge()
        shape = (ctx.num_classes, next(iter(spoken.values())).values.shape[1])
        total, owners = np.zeros(shape), np.zeros(ctx.num_classes, np.int64)
        for rows in spoken.values():
            total[rows.ids] += rows.values
            owners[rows.ids] += 1
        answers = {}
        for client_id in range(ctx.num_clients):
            others, left = total, owners
            if client_id in spoken:
                own = spoken[client_id]
                others, left = total.copy(), owners.copy()
                others[own.ids] -= own.values
                left[own.ids] -= 1
            ids = np.flatnonzero(left)
            means = (others[ids] / left[ids, None]).astype(np.float32)
            answers[client_id] = (Rows(space="class", kind="logits", ids=ids, values=means),)
        return state, Knowledge(per_client=answers)

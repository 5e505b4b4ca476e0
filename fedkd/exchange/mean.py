"""The server that only averages: EdgeFD's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from fedkd.exchange.combine import by_stream, masked_mean
from fedkd.exchange.scheme import ServerContext, ServerScheme, ServerState
from fedkd.rows import KINDS, SPACES, Knowledge, Share


@dataclass(frozen=True, kw_only=True)
class MeanConfig:
    """Nothing to choose."""


@final
class MeanScheme(ServerScheme):
    """Row-wise masked mean of each stream; every client gets all aggregated rows. Keeps nothing between rounds."""

    Config: ClassVar[type] = MeanConfig
    spaces = SPACES - {"params", "text"}
    kinds = KINDS - {"hard"}

    def __init__(self, config: MeanConfig) -> None:
        self.config = config

    def init(self, ctx: ServerContext) -> ServerState:  # noqa: ARG002 - the contract's arguments
        """Nothing."""
        return {}

    def step(self, ctx: ServerContext, state: ServerState, shares: Sequence[Share]) -> tuple[ServerState, Knowledge]:  # noqa: ARG002
        """The means, streams in a fixed order."""
        streams = by_stream(shares)
        return state, Knowledge(common=tuple(masked_mean(streams[key]) for key in sorted(streams)))

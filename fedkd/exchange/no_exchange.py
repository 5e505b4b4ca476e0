"""No exchange at all: the floor, and the scheme of a centralised run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from fedkd.exchange.scheme import ServerContext, ServerScheme, ServerState
from fedkd.rows import Knowledge, Share


@dataclass(frozen=True, kw_only=True)
class NoExchangeConfig:
    """Nothing to choose."""


@final
class NoExchange(ServerScheme):
    """Takes no shares and gives no knowledge; clients are asked for none, so nothing is sent."""

    Config: ClassVar[type] = NoExchangeConfig
    spaces: ClassVar[frozenset[str]] = frozenset()
    kinds: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: NoExchangeConfig) -> None:
        self.config = config

    def init(self, ctx: ServerContext) -> ServerState:  # noqa: ARG002 - the contract's arguments
        """Nothing."""
        return {}

    def step(self, ctx: ServerContext, state: ServerState, shares: Sequence[Share]) -> tuple[ServerState, Knowledge]:  # noqa: ARG002
        """Nothing."""
        return state, Knowledge()

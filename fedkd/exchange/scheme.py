"""The contract of a server scheme: what the server makes of the shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from fedkd.data.base import Samples
from fedkd.rows import Knowledge, Share

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

ServerState: TypeAlias = dict[str, Any]  # a tree of arrays, tensors, numbers, strings and lists


@dataclass(frozen=True, eq=False, kw_only=True)
class ServerContext:
    """What a scheme may use. Nothing here changes between rounds except `round_id`."""

    round_id: int
    seed: int
    num_clients: int
    num_classes: int
    proxy: Samples | None
    rows_per_sample: int
    test: Samples | None  # for reporting a server model; never for a decision
    build_model: Callable[[], nn.Module]
    rng: Callable[[str], np.random.Generator]
    emit: Callable[[Mapping[str, float]], None]


class ServerScheme(ABC):
    """State goes in and comes out; what `step` returns is all that a checkpoint holds. Construct with `cls(config)`."""

    Config: ClassVar[type]
    spaces: ClassVar[frozenset[str]]  # spaces of the rows that it combines; empty: it takes no shares
    kinds: ClassVar[frozenset[str]]  # kinds of the rows that it combines
    tasks: ClassVar[frozenset[str] | None] = None  # names of the tasks that it serves; None: every task
    gives: ClassVar[frozenset[str] | None] = None  # kinds of the rows that it answers with; None: those it was given
    extras: ClassVar[frozenset[str]] = frozenset()  # kinds of the records that it takes, see `fedkd.exchange.extras`
    one_pass: bool = False  # `step` reads `shares` once, in order, so that they need not all be in memory

    @abstractmethod
    def init(self, ctx: ServerContext) -> ServerState:
        """The state before the first round."""

    @abstractmethod
    def step(self, ctx: ServerContext, state: ServerState, shares: Sequence[Share]) -> tuple[ServerState, Knowledge]:
        """The next state, and what the clients learn from. `shares` come ordered by client id; some may be empty.

        A scheme that is `one_pass` is given them as an iterator (and says `Iterable[Share]` here): each while the next
        ones are still on their way. Where too few clients answer, the iterator ends in QuorumError.
        """

"""The server that only combines: EdgeFD's mean, and robust rules in its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from fedkd.checks import check_choice
from fedkd.exchange.combine import HOW, combine_streams, merge_variants
from fedkd.exchange.extras import Acceptance, extra_of, records_of
from fedkd.exchange.memory import remembered
from fedkd.exchange.scheme import ServerContext, ServerScheme, ServerState
from fedkd.metric_names import ACCEPTANCE_ACCEPTED, ACCEPTANCE_RATE, ACCEPTANCE_REJECTED
from fedkd.rows import KINDS, SPACES, Extra, Knowledge, Share


@dataclass(frozen=True, kw_only=True)
class MeanConfig:
    """How rows are combined, and what becomes of rows that nobody speaks for."""

    how: str = "mean"  # mean; or median, trimmed (robust against a few liars), best (the largest weight has the word)
    merge_variants: bool = False  # all variants of a client are one voice: the mean over them, combined as the main one
    memory: bool = False  # rows nobody spoke for keep their value; the column `age` says for how many rounds

    def __post_init__(self) -> None:
        check_choice("how", self.how, tuple(HOW))


@final
class MeanScheme(ServerScheme):
    """Row-wise masked mean of each stream; every client gets all aggregated rows.

    Keeps nothing between rounds, unless `memory`: then all rows that were ever spoken for, with their age. Within a
    round the mean keeps sums alone, the other rules all shares.
    """

    Config: ClassVar[type] = MeanConfig
    spaces = SPACES - {"params", "text"}
    kinds = KINDS - {"hard"}
    extras = frozenset({"acceptance"})

    def __init__(self, config: MeanConfig) -> None:
        self.config = config
        self.one_pass = config.how == "mean"

    def init(self, ctx: ServerContext) -> ServerState:  # noqa: ARG002 - the contract's arguments
        """Nothing yet."""
        return {}

    def step(self, ctx: ServerContext, state: ServerState, shares: Iterable[Share]) -> tuple[ServerState, Knowledge]:
        """The combined rows, streams in a fixed order, and the sums of additive records."""
        counted: list[Acceptance] = []

        def spoken() -> Iterator[Share]:
            for share in shares:
                counted.extend(records_of((share,), Acceptance))
                yield merge_variants(share, num_columns=ctx.num_classes) if self.config.merge_variants else share

        streams = combine_streams(spoken(), self.config.how, num_columns=ctx.num_classes)
        if self.config.memory:
            streams = remembered(streams, state.get("memory", ()))
            state = {"memory": [streams[key].to_tree() for key in sorted(streams)]}
        knowledge = Knowledge(common=tuple(streams[key] for key in sorted(streams)), extras=_sums(ctx, counted))
        return state, knowledge


def _sums(ctx: ServerContext, counted: Sequence[Acceptance]) -> tuple[Extra, ...]:
    """Acceptance counters of all clients as one, told and emitted; nothing where nobody sent any."""
    if not counted:
        return ()
    total = Acceptance.total(counted)
    ctx.emit({ACCEPTANCE_ACCEPTED: total.accepted, ACCEPTANCE_REJECTED: total.rejected})
    if total.accepted + total.rejected:
        ctx.emit({ACCEPTANCE_RATE: total.accepted / (total.accepted + total.rejected)})
    return (extra_of(total),)

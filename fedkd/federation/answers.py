"""What came back in a round: read, checked at the border, and counted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fedkd.data.proxy import row_ids
from fedkd.errors import BadReplyError, QuorumError
from fedkd.exchange.codec import Codec
from fedkd.federation.border import Expected, check_share
from fedkd.federation.fleet import CohortReply
from fedkd.federation.messages import IDLE, ClientFailure, RoundRequest, RoundResult
from fedkd.federation.setting import Setting
from fedkd.federation.store import StateRef
from fedkd.federation.wire import Parcel
from fedkd.methods.base import LocalTrainer, streams_of
from fedkd.rows import Share
from fedkd.tasks.base import Task


@dataclass(eq=False)
class Answers:
    """The replies of one round, by client id."""

    good: dict[int, RoundResult] = field(default_factory=dict)  # without the rows of their shares
    failures: dict[int, str] = field(default_factory=dict)  # raised, vanished or too late, and why
    rejected: dict[int, str] = field(default_factory=dict)  # answered, but not acceptably, and why
    refs: dict[int, StateRef] = field(default_factory=dict)  # where states lie now
    uplink: dict[int, int] = field(default_factory=dict)  # payload bytes that arrived
    header_bytes: int = 0
    peaks: dict[int, int] = field(default_factory=dict)  # process id -> peak memory in bytes

    def arrivals(
        self,
        replies: Iterable[CohortReply],
        *,
        clients: Collection[int],
        codec: Codec,
        expected: Expected,
        idle: Collection[int] = (),
    ) -> Iterator[Share]:
        """Read and check replies as they come; good shares by ascending client id, whatever order they come in.

        What is kept here of a share that was passed on has no rows: they need not all be in memory at once.

        Args:
            clients: who was asked. A share waits until all clients of a lower id have answered, or nobody is left to.
        """
        early: dict[int, Share] = {}
        due = sorted(clients, reverse=True)
        for reply in replies:
            self.header_bytes += reply.header_bytes
            self.peaks |= reply.peak
            for client_id, answer in reply.clients.items():
                share = self._read(client_id, answer, codec, expected, idle)
                if share is not None:
                    early[client_id] = share
            while due and self._has_answered(due[-1]):
                share = early.pop(due.pop(), None)
                if share is not None:
                    yield share
        for client_id in sorted(early):
            yield early.pop(client_id)

    def _has_answered(self, client_id: int) -> bool:
        return any(client_id in known for known in (self.good, self.failures, self.rejected))

    def _read(
        self, client_id: int, answer: Parcel | ClientFailure, codec: Codec, expected: Expected, idle: Collection[int]
    ) -> Share | None:
        """Note what one client answered; its share where it is good."""
        if isinstance(answer, ClientFailure):
            if client_id in idle:
                return None  # it was not asked to train: its state lies where it lay
            self.failures[client_id] = answer.reason
            if answer.ref is not None:
                self.refs[client_id] = answer.ref
            return None
        try:
            if answer.header.get(IDLE):
                if "ref" in answer.header:
                    self.refs[client_id] = RoundResult.ref_of(answer)
                return None
            self.uplink[client_id] = RoundResult.share_bytes(answer)
            self.refs[client_id] = RoundResult.ref_of(answer)  # it trained, whatever becomes of its share
            result = RoundResult.from_parcel(answer, codec)
            check_share(result.share, client_id, expected)
            _check_tables(result, expected)
        except BadReplyError as error:
            self.rejected[client_id] = error.reason
            return None
        self.good[client_id] = replace(result, share=replace(result.share, rows=(), extra=None))
        return result.share

    def add_missing(self, clients: Iterable[int], *, reason: str) -> None:
        """Count clients that said nothing at all as failures."""
        for client_id in clients:
            if not self._has_answered(client_id):
                self.failures[client_id] = reason

    def check_quorum(self, round_id: int, need: int) -> None:
        """Raise QuorumError, with the first reasons, where fewer than `need` replies are good."""
        if len(self.good) >= need:
            return
        reasons = [f"client {i}: {reason}" for i, reason in sorted((self.failures | self.rejected).items())]
        more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
        raise QuorumError(
            f"round {round_id}: {len(self.good)} good replies, need {need} (engine.min_good_replies). "
            f"{'; '.join(reasons[:3])}{more}"
        )


def _check_tables(result: RoundResult, expected: Expected) -> None:
    """BadReplyError where a table is not one that the task fills, or not of its shape."""
    for name, table in result.tables.items():
        if name not in expected.tables:
            raise BadReplyError(f"a table {name[:40]!r} was not asked for")
        if table.dtype.kind != "i" or table.shape != expected.tables[name]:
            raise BadReplyError(
                f"{name} has shape {table.shape} of {table.dtype}, expected {expected.tables[name]} counts"
            )


def expected_shares(setting: Setting, request: RoundRequest, *, trainer: LocalTrainer, task: Task[Any]) -> Expected:
    """What shares of this round must look like."""
    asked = None
    streams = streams_of(trainer, task)
    if setting.proxy is not None and any(stream.space == "proxy" for stream in streams):
        samples = np.zeros(len(setting.proxy), bool)
        samples[slice(None) if request.asked is None else request.asked] = True
        asked = np.zeros(len(samples) * task.rows_per_sample, bool)
        asked[row_ids(np.flatnonzero(samples), task.rows_per_sample, task.valid(setting.proxy))] = True
    return Expected(
        round_id=request.round_id,
        streams=streams,
        asked=asked,
        num_classes=task.num_outputs,
        rows_per_sample=task.rows_per_sample,
        extras=trainer.extras,
        tables=task.table_shapes,
    )

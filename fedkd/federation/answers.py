"""What came back in a round: read, checked at the border, and counted."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
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
from fedkd.methods.base import LocalTrainer, streams_of
from fedkd.tasks.base import Task


@dataclass(eq=False)
class Answers:
    """The replies of one round, by client id."""

    good: dict[int, RoundResult] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)  # raised, vanished or too late, and why
    rejected: dict[int, str] = field(default_factory=dict)  # answered, but not acceptably, and why
    refs: dict[int, StateRef] = field(default_factory=dict)  # where states lie now
    uplink: dict[int, int] = field(default_factory=dict)  # payload bytes that arrived
    header_bytes: int = 0
    peaks: dict[int, int] = field(default_factory=dict)  # process id -> peak memory in bytes

    @classmethod
    def collect(
        cls, replies: Iterable[CohortReply], *, codec: Codec, expected: Expected, idle: Collection[int] = ()
    ) -> Answers:
        """Read and check replies as they come."""
        answers = cls()
        for reply in replies:
            answers.header_bytes += reply.header_bytes
            answers.peaks |= reply.peak
            for client_id, answer in reply.clients.items():
                if isinstance(answer, ClientFailure) and client_id in idle:
                    continue  # it was not asked to train: its state lies where it lay
                if isinstance(answer, ClientFailure):
                    answers.failures[client_id] = answer.reason
                    if answer.ref is not None:
                        answers.refs[client_id] = answer.ref
                    continue
                try:
                    if answer.header.get(IDLE):
                        if "ref" in answer.header:
                            answers.refs[client_id] = RoundResult.ref_of(answer)
                        continue
                    answers.uplink[client_id] = RoundResult.share_bytes(answer)
                    answers.refs[client_id] = RoundResult.ref_of(answer)  # it trained, whatever becomes of its share
                    result = RoundResult.from_parcel(answer, codec)
                    check_share(result.share, client_id, expected)
                    _check_tables(result, expected)
                    answers.good[client_id] = result
                except BadReplyError as error:
                    answers.rejected[client_id] = error.reason
        return answers

    def add_missing(self, clients: Iterable[int], *, reason: str) -> None:
        """Count clients that said nothing at all as failures."""
        for client_id in clients:
            if not any(client_id in known for known in (self.good, self.failures, self.rejected)):
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

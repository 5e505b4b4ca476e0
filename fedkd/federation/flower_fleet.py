"""Clients behind Flower nodes: simulation on Ray, or devices. One of the three modules that import Flower."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import final

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedkd.errors import BadReplyError, RunError
from fedkd.federation.again import ask_again
from fedkd.federation.fleet import CohortReply, Fleet, deal, failed_cohort, read_reply
from fedkd.federation.messages import ROUND, Job, Request
from fedkd.federation.wire import Bundle, Parcel, pack, unpack

POLL_S = 0.2
WAIT_FOR_NODES_S = 120.0  # for the first node, for an answer to hello, and for nodes that name clients of their own
GREET_AGAIN_S = 2.0
LOST = frozenset({0, 5, 8})  # Flower's codes where a Ray actor has died, a node is gone, a node's app has crashed
# Flower's own `send_and_receive` looks for replies every 3 s where nodes are devices. Here it is this share of the time
# that has passed since the request, within these seconds: a quick round is not held up, a long one costs few looks.
LOOK_SHARE, LOOK_LEAST_S, LOOK_MOST_S = 0.02, 0.01, 1.0

_log = logging.getLogger(__name__)


@final
class FlowerFleet(Fleet):
    """Deals clients over the nodes that are there now; a node that names its own clients gets exactly those.

    A client is known by its client id. Flower's node ids change whenever a SuperNode restarts, so they serve for
    addressing within one message and nothing else.
    """

    def __init__(self, grid: Grid, *, clients_per_node: int = 0) -> None:
        self._grid = grid
        self._clients_per_node = clients_per_node
        self._greeting: Request | None = None
        self._homes: dict[int, list[int] | None] = {}  # node -> the clients that live there; None: any client
        self._greeted: list[Parcel] = []

    def hello(self, request: Request, *, deadline_s: float) -> list[Parcel]:
        """Wait for nodes and greet them all; later, whoever is new is greeted before the next message.

        Where nodes name their clients (devices), it waits until every client has a node, and after `WAIT_FOR_NODES_S`
        goes on without the rest.
        """
        self._greeting = request
        everyone = range(int(Job.from_json(request.shared.header["job"]).experiment["num_clients"]))
        deadline = time.monotonic() + WAIT_FOR_NODES_S
        self._greet(self._nodes(), deadline_s)
        while (missing := self._homeless(everyone)) and time.monotonic() < deadline:
            time.sleep(GREET_AGAIN_S)
            self._greet(self._nodes(), deadline_s)
        if missing:
            _log.warning("no node came within %g s for the clients %s", WAIT_FOR_NODES_S, ", ".join(map(str, missing)))
        return self._greeted

    def broadcast(self, request: Request, *, deadline_s: float) -> Iterator[CohortReply]:
        """One message per cohort; where its worker is lost, its clients are asked for again."""

        def ask(part: Request, within_s: float) -> Iterator[CohortReply]:
            return self._ask(part, within_s=within_s, deadline_s=deadline_s)

        return ask_again(ask, request, deadline_s=deadline_s)

    def _ask(self, request: Request, *, within_s: float, deadline_s: float) -> Iterator[CohortReply]:
        """Replies in the order of the cohorts. Of the `deadline_s` for the whole request, `within_s` are left."""
        nodes = self._nodes()
        self._greet(nodes, within_s)
        cohorts = self._place(sorted(request.clients), nodes)
        common = _record(request.common())  # one record for all messages: Flower sends equal objects once
        messages = [
            Message(
                RecordDict({"common": common, "cohort": _record(request.cohort(clients))}),
                dst_node_id=node,
                message_type="train" if request.kind == ROUND else f"query.{request.kind}",
                group_id=str(number),
            )
            for number, (node, clients) in enumerate(cohorts)
        ]
        replies = {reply.metadata.group_id: reply for reply in self._exchange(messages, within_s)}
        for number, (node, clients) in enumerate(cohorts):
            reply = replies.pop(str(number), None)
            if reply is None:
                yield failed_cohort(clients, f"node {node} gave no reply within {deadline_s:g} s")
            elif reply.has_error():
                is_lost = reply.error.code in LOST and self._homes.get(node) is None
                yield failed_cohort(clients, f"node {node}: {_error(reply)}", is_lost=is_lost)
            else:
                yield _read(reply, clients)

    def close(self) -> None:
        """Nothing: the grid belongs to Flower."""

    def _exchange(self, messages: Sequence[Message], timeout_s: float) -> Iterator[Message]:
        """Send the messages; the replies that come in time, as they come."""
        waiting = {name for name in self._grid.push_messages(messages) if name}
        started = time.monotonic()
        while waiting:
            for reply in self._grid.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                yield reply
            passed = time.monotonic() - started
            if passed >= timeout_s:
                return
            if waiting:
                pause = min(max(LOOK_SHARE * passed, LOOK_LEAST_S), LOOK_MOST_S)
                time.sleep(min(pause, timeout_s - passed))

    def _nodes(self) -> list[int]:
        """The nodes that are there, once two looks agree: in simulation they register after the server has started."""
        deadline = time.monotonic() + WAIT_FOR_NODES_S
        seen: list[int] = []
        while True:
            now = sorted(self._grid.get_node_ids())
            if now and (now == seen or set(now) <= self._homes.keys()):
                return now
            if time.monotonic() > deadline:
                raise RunError(
                    f"no Flower node registered within {WAIT_FOR_NODES_S:g} s; start SuperNodes, or see Flower's log"
                )
            seen = now
            time.sleep(POLL_S)

    def _greet(self, nodes: list[int], deadline_s: float) -> None:
        """Say hello to the nodes that are new; nodes that left are forgotten, and one that errs is greeted again."""
        self._homes = {node: home for node, home in self._homes.items() if node in nodes}
        new = [node for node in nodes if node not in self._homes]
        if not new or self._greeting is None:
            return
        common, nobody = _record(self._greeting.common()), _record(pack(Bundle(self._greeting.kind, Parcel())))
        content = RecordDict({"common": common, "cohort": nobody})
        messages = [Message(content, dst_node_id=node, message_type=f"query.{self._greeting.kind}") for node in new]
        refusals = []
        for reply in self._exchange(messages, min(deadline_s, WAIT_FOR_NODES_S)):
            node = reply.metadata.src_node_id
            if reply.has_error():
                refusals.append(f"node {node}: {_error(reply)}")
                continue
            try:
                greeting = unpack(_bytes(reply)).shared
                here = greeting.header.get("clients")
                self._homes[node] = None if here is None else [int(client) for client in here]
            except (BadReplyError, TypeError, ValueError) as error:
                refusals.append(f"node {node}: {error}")
                continue
            self._greeted.append(greeting)
        if not self._homes:
            raise RunError(f"no Flower node answered hello: {'; '.join(refusals[:3]) or 'none in time'}")
        for refusal in refusals:
            _log.warning("no hello from %s", refusal)

    def _homeless(self, clients: Sequence[int]) -> list[int]:
        """The clients that no node is there for."""
        homes = list(self._homes.values())
        if None in homes:  # a node for any client
            return []
        return sorted(set(clients).difference(*(home for home in homes if home is not None)))

    def _place(self, clients: list[int], nodes: list[int]) -> list[tuple[int, list[int]]]:
        """(node, clients) for every message of this request."""
        wanted = set(clients)
        placed: list[tuple[int, list[int]]] = []
        for node in nodes:
            home = self._homes.get(node)
            own = sorted(wanted.intersection(home or ()))
            if own:
                wanted -= set(own)
                placed.append((node, own))
        anyone = [node for node in nodes if node in self._homes and self._homes[node] is None]
        if anyone:
            cohorts = deal(sorted(wanted), len(anyone), self._clients_per_node)
            placed += [(anyone[number % len(anyone)], cohort) for number, cohort in enumerate(cohorts)]
        return placed


def _record(data: bytes) -> ArrayRecord:
    """Bytes as the one kind of record that Flower sends in pieces, whatever its size."""
    return ArrayRecord({"blob": Array(np.frombuffer(data, np.uint8))})


def _bytes(message: Message) -> bytes:
    """What the reply holds; BadReplyError where it is no reply of ours."""
    try:
        blob: bytes = message.content.array_records["reply"]["blob"].numpy().tobytes()
    except (KeyError, ValueError, TypeError) as error:
        raise BadReplyError(f"reply holds no blob of bytes: {error}") from error
    return blob


def _error(message: Message) -> str:
    """Flower's error in one line; where a Ray worker died, the rest is Ray's advice."""
    first = next(
        (line.strip() for line in (message.error.reason or "").splitlines() if line.strip()), "no reason given"
    )
    return f"Flower error {message.error.code}: {first[:300]}"


def _read(message: Message, clients: Sequence[int]) -> CohortReply:
    try:
        return read_reply(_bytes(message), clients)
    except BadReplyError as error:
        return failed_cohort(clients, str(error))

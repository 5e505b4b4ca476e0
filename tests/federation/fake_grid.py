"""A Flower grid without Flower's network: the messages are real, the nodes are functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from flwr.app import Context, Error, Message, RecordDict

from fedkd import client_app
from fedkd.federation.fleet import CohortReply
from fedkd.federation.flower_fleet import _record
from fedkd.federation.messages import HELLO, ClientFailure
from fedkd.federation.wire import Bundle, Parcel, pack, unpack

NodeConfig = dict[str, Any]
Answer = Callable[["Node", Message], Message | None]


class Node:
    """One SuperNode: a process of its own, so its hosts are its own; what it does may be replaced."""

    def __init__(self, node_id: int, config: NodeConfig | None = None, *, answer: Answer | None = None) -> None:
        self.node_id = node_id
        self.config = config or {"partition-id": 0, "num-partitions": 1}
        self.kinds: list[str] = []
        self.asked: list[list[int]] = []
        self._hosts: dict[Any, Any] = {}
        self._answer = answer or (lambda node, message: node.run_client_app(message))

    def handle(self, message: Message) -> Message | None:
        clients = sorted(_bundle(message, "cohort").clients)
        self.kinds.append(message.metadata.message_type)
        if message.metadata.message_type != f"query.{HELLO}":
            self.asked.append(clients)
        try:
            return self._answer(self, message)
        except Exception as error:  # as Flower does
            return Message(Error(2, f"{type(error).__name__}: {error}"), reply_to=message)

    def run_client_app(self, message: Message) -> Message:
        context = Context(run_id=1, node_id=self.node_id, node_config=self.config, state=RecordDict(), run_config={})
        hosts, client_app._HOSTS = client_app._HOSTS, self._hosts
        try:
            return client_app.app(message, context)
        finally:
            client_app._HOSTS = hosts


class FakeGrid:
    """Flower's Grid as far as the fleet knows it. `arrivals[i]` come with look i at the list of nodes."""

    def __init__(self, *nodes: Node, arrivals: Sequence[Sequence[Node]] = (), dies_at: int | None = None) -> None:
        self.nodes = list(nodes)
        self.looks = 0
        self.sent: list[Message] = []
        self._arrivals = list(arrivals)
        self._replies: list[Message | None] = []
        self._trainings_left = dies_at

    def get_node_ids(self) -> Iterable[int]:
        self.looks += 1
        if self._arrivals:
            self.nodes += self._arrivals.pop(0)
        return [node.node_id for node in self.nodes]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        batch = list(messages)
        if self._trainings_left is not None and batch[0].metadata.message_type == "train":
            self._trainings_left -= 1
            if self._trainings_left < 0:
                raise ConnectionError("the SuperLink is gone")
        by_id = {node.node_id: node for node in self.nodes}
        for number, message in enumerate(batch, start=len(self.sent)):
            message.metadata.__dict__["_message_id"] = f"message {number}"  # as Flower does
            self._replies.append(by_id[message.metadata.dst_node_id].handle(message))
        self.sent += batch
        return [message.metadata.message_id for message in batch]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        wanted = set(message_ids)
        replies, self._replies = [reply for reply in self._replies if reply is not None], []
        assert {reply.metadata.reply_to_message_id for reply in replies} <= wanted
        return list(reversed(replies))  # in any order


def echo(node_id: int, *, clients: list[int] | None = None) -> Node:
    """A node that answers for all that it is asked for."""

    def answer(_: Node, message: Message) -> Message:
        cohort = _bundle(message, "cohort")
        reply = Bundle(cohort.kind, Parcel({"clients": clients}), {i: Parcel({"id": i}) for i in cohort.clients})
        return Message(RecordDict({"reply": _record(pack(reply))}), reply_to=message)

    return Node(node_id, answer=answer)


def answered(replies: list[CohortReply]) -> list[int]:
    return [i for reply in replies for i, answer in reply.clients.items() if isinstance(answer, Parcel)]


def failures(replies: list[CohortReply]) -> dict[int, str]:
    return {
        i: answer.reason
        for reply in replies
        for i, answer in reply.clients.items()
        if isinstance(answer, ClientFailure)
    }


def _bundle(message: Message, part: str) -> Bundle:
    return unpack(message.content.array_records[part]["blob"].numpy().tobytes())

"""Flower's ClientApp: glue between a message and the host that keeps this process's clients."""

from __future__ import annotations

import os

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedkd.federation.host import ClientHost
from fedkd.federation.messages import ASSIGN, CONTRIBUTE, HELLO, PROXY
from fedkd.federation.workspace import Node
from fedkd.methods.base import DeviceProfile

app = ClientApp()
os.environ.setdefault("OMP_NUM_THREADS", "1")  # whatever imports torch here first, a feature map say, gets one thread
_HOSTS: dict[Node, ClientHost] = {}  # one worker process may serve several nodes in simulation: they share their host


@app.query(HELLO)
def hello(message: Message, context: Context) -> Message:
    """Who lives here; imports no torch."""
    return _answer(message, context)


@app.query(CONTRIBUTE)
def contribute(message: Message, context: Context) -> Message:
    """Samples for the proxy set."""
    return _answer(message, context)


@app.query(PROXY)
def proxy(message: Message, context: Context) -> Message:
    """What the filters make of the proxy set."""
    return _answer(message, context)


@app.query(ASSIGN)
def assign(message: Message, context: Context) -> Message:
    """Which proxy samples the coordinator lets each client speak for."""
    return _answer(message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round, or the closing message."""
    import torch

    torch.set_num_threads(1)
    return _answer(message, context)


def node_of(config: dict[str, bool | int | float | str]) -> Node:
    """The node that Flower's node config describes; in simulation it names no clients, and any client may come.

    Keys for a device: `client-ids` ("3", or "3,4"), `state-root`, `data-root`, `device-name`.
    """
    named = str(config.get("client-ids", ""))
    return Node(
        client_ids=tuple(int(client) for client in named.split(",")) if named else None,
        state_root=str(config.get("state-root", "")),
        data_root=str(config.get("data-root", "")),
        profile=DeviceProfile(name=str(config.get("device-name", "simulated"))),
    )


def _answer(message: Message, context: Context) -> Message:
    node = node_of(dict(context.node_config))
    host = _HOSTS.setdefault(node, ClientHost(node))
    common, cohort = (message.content.array_records[part]["blob"].numpy().tobytes() for part in ("common", "cohort"))
    reply = np.frombuffer(host.handle(common, cohort), np.uint8)
    return Message(RecordDict({"reply": ArrayRecord({"blob": Array(reply)})}), reply_to=message)

"""Whole runs for tests: small experiments, and a fleet that records, stops and spoils messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from fedkd.compose import compose
from fedkd.experiment import Experiment
from fedkd.federation.checkpoint import Checkpoints
from fedkd.federation.fleet import CohortReply, Fleet, read_reply
from fedkd.federation.host import ClientHost
from fedkd.federation.local_fleet import LocalFleet
from fedkd.federation.messages import Request
from fedkd.federation.wire import Bundle, Parcel, pack, unpack
from fedkd.report.events import Event, read_events
from fedkd.report.folder import RunFolder
from fedkd.runner import Run, conduct, start_run

FEW_STEPS = {"schedule.private_steps": 3, "rounds": 3}


class StoppedError(Exception):
    """Where a test pulls the plug."""


@dataclass(eq=False)
class Message:
    """One message as it travelled, and what came back."""

    kind: str
    shared: Parcel
    clients: dict[int, Parcel]
    replies: list[CohortReply] = field(default_factory=list)

    @property
    def round_id(self) -> int | None:
        """None in the set-up."""
        return self.shared.header.get("round_id")

    def answers(self) -> dict[int, Any]:
        """Parcel or failure by client."""
        return {client: answer for reply in self.replies for client, answer in reply.clients.items()}


@final
class WatchedFleet(Fleet):
    """Passes everything on and records it; messages are numbered from 0, hello not counted."""

    def __init__(
        self,
        inner: Fleet,
        *,
        stop_before: int | None = None,
        stop_after: int | None = None,
        spoil: Callable[[Message, CohortReply], CohortReply] = lambda message, reply: reply,
    ) -> None:
        self.inner = inner
        self.stop_before = stop_before
        self.stop_after = stop_after
        self.spoil = spoil
        self.messages: list[Message] = []

    def hello(self, request: Request, *, deadline_s: float) -> list[Parcel]:
        return self.inner.hello(request, deadline_s=deadline_s)

    def broadcast(self, request: Request, *, deadline_s: float) -> Iterator[CohortReply]:
        number = len(self.messages)
        if number == self.stop_before:
            raise StoppedError
        shared, own = unpack(request.common()), unpack(request.cohort(sorted(request.clients)))
        message = Message(request.kind, shared.shared, own.clients)
        self.messages.append(message)
        for reply in self.inner.broadcast(request, deadline_s=deadline_s):
            message.replies.append(self.spoil(message, reply))
            yield message.replies[-1]
        if number == self.stop_after:
            raise StoppedError

    def close(self) -> None:
        self.inner.close()

    def rounds(self) -> list[Message]:
        """The messages after the set-up, the closing one included."""
        return [message for message in self.messages if message.kind == "round"]


@final
class MovingFleet(Fleet):
    """Workers in this process that take the clients in turn: in every round a client meets another one."""

    def __init__(self, workers: int) -> None:
        self.hosts = [ClientHost() for _ in range(workers)]
        self.messages = 0

    def hello(self, request: Request, *, deadline_s: float) -> list[Parcel]:
        nobody = pack(Bundle(request.kind, Parcel()))
        return [unpack(host.handle(request.common(), nobody)).shared for host in self.hosts]

    def broadcast(self, request: Request, *, deadline_s: float) -> Iterator[CohortReply]:
        self.messages += 1
        for client in sorted(request.clients):
            host = self.hosts[(client + self.messages) % len(self.hosts)]
            yield read_reply(host.handle(request.common(), request.cohort([client])), [client])

    def close(self) -> None:
        pass


def experiment(preset: str = "edgefd", changes: Mapping[str, Any] = FEW_STEPS) -> Experiment:
    """A preset with a few changes; short unless they say otherwise."""
    return compose(overrides={"the test": {"preset": preset, **FEW_STEPS, **changes}})


def watch(chosen: Experiment, out: Path, **watching: Any) -> WatchedFleet:
    """Run an experiment in the new folder `out`; the fleet that saw it."""
    return watch_run(start_run(chosen, out), **watching)


def watch_run(run: Run, **watching: Any) -> WatchedFleet:
    """Conduct a run over a watched local fleet."""
    core, workers = run.experiment.core, run.experiment.engine.workers
    with LocalFleet(workers=workers, clients_per_node=core.clients_per_node, device=core.device) as inner:
        fleet = WatchedFleet(inner, **watching)
        conduct(run, fleet, engine="local")
    return fleet


def metrics(out: Path) -> bytes:
    """metrics.jsonl as it lies."""
    return RunFolder.open(out).metrics_jsonl.read_bytes()


def events(out: Path) -> dict[int, Event]:
    """The numbers by round: -1 is the set-up, the last one the closing message."""
    return {event["round_id"]: event for event in read_events(RunFolder.open(out).metrics_jsonl)}


def digests(out: Path) -> dict[int, str]:
    """Digest of every client's state in the newest checkpoint."""
    progress = Checkpoints(RunFolder.open(out).checkpoints).load()
    assert progress is not None
    return {client: ref.digest for client, ref in progress.refs.items()}

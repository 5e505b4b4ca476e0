"""The contract of a fleet: whoever carries requests to clients and their replies back."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from fedkd.errors import BadReplyError
from fedkd.federation.host import failure_of
from fedkd.federation.messages import ClientFailure, Request
from fedkd.federation.wire import Parcel, unpack

LARGEST_COHORT = 250  # clients of one message that nobody asked to be larger: its reply is in memory at once


@dataclass(frozen=True, eq=False)
class CohortReply:
    """What one worker answered: a parcel or a failure for each of its clients."""

    shared: Parcel
    clients: dict[int, Parcel | ClientFailure] = field(default_factory=dict)
    header_bytes: int = 0  # framing: everything but the arrays
    is_lost: bool = False  # the worker is gone; another one may be asked

    @property
    def peak(self) -> dict[int, int]:
        """Process id and peak memory in bytes of the worker; nothing where it does not say."""
        process = self.shared.header.get("process")
        match process:
            case {"pid": int(pid), "peak_rss_bytes": int(peak)}:
                return {pid: peak}
        return {}


class Fleet(ABC):
    """Deals the clients of a request over whoever is there. Two final classes: FlowerFleet and LocalFleet."""

    @abstractmethod
    def hello(self, request: Request, *, deadline_s: float) -> list[Parcel]:
        """What every worker says of itself; empty `clients` in a request address the workers, not clients."""

    @abstractmethod
    def broadcast(self, request: Request, *, deadline_s: float) -> Iterator[CohortReply]:
        """Replies as they come. Clients that nobody answers for by the deadline are simply absent."""

    @abstractmethod
    def close(self) -> None:
        """Let go of workers and settings."""

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def deal(client_ids: Sequence[int], num_nodes: int, clients_per_node: int) -> list[list[int]]:
    """Cohorts of neighbouring clients: node i takes the cohorts i, i + num_nodes, ...

    With `clients_per_node` 0 there is one cohort of nearly equal size for each node, or several where they would have
    more than LARGEST_COHORT clients; otherwise cohorts of that size, as many as needed.
    """
    ids = sorted(client_ids)
    if clients_per_node:
        return [ids[start : start + clients_per_node] for start in range(0, len(ids), clients_per_node)]
    cohorts = min(num_nodes * -(-len(ids) // (num_nodes * LARGEST_COHORT)), len(ids))
    bounds = [len(ids) * number // cohorts for number in range(cohorts + 1)] if cohorts else [0]
    return [ids[low:high] for low, high in itertools.pairwise(bounds)]


def read_reply(data: bytes, asked: Sequence[int]) -> CohortReply:
    """A worker's reply; one that is no valid message fails all clients that it was to answer for."""
    try:
        bundle = unpack(data)
    except BadReplyError as error:
        return failed_cohort(asked, str(error))
    clients: dict[int, Parcel | ClientFailure] = {}
    for client_id in asked:
        if client_id in bundle.clients:
            parcel = bundle.clients[client_id]
            try:
                clients[client_id] = failure_of(client_id, parcel) or parcel
            except BadReplyError as error:
                clients[client_id] = ClientFailure(client_id, str(error))
    return CohortReply(bundle.shared, clients, len(data) - bundle.nbytes)


def failed_cohort(asked: Sequence[int], reason: str, *, is_lost: bool = False) -> CohortReply:
    """A cohort whose worker failed as a whole."""
    failures: dict[int, Parcel | ClientFailure] = {i: ClientFailure(i, reason) for i in asked}
    return CohortReply(Parcel(), failures, is_lost=is_lost)

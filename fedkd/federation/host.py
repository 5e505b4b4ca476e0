"""A worker: it keeps clients resident and answers the coordinator's messages, one cohort at a time."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np

from fedkd.data.base import Samples
from fedkd.errors import BadReplyError, FedKDError
from fedkd.federation import tree
from fedkd.federation.client import choose, finish, visit
from fedkd.federation.fitting import Visit, fit_alone, fit_together, groups
from fedkd.federation.messages import (
    ASSIGN,
    CONTRIBUTE,
    HELLO,
    IDLE,
    PROXY,
    ROUND,
    ClientFailure,
    Job,
    RoundRequest,
    RoundResult,
)
from fedkd.federation.setup_messages import Assignment, Contribution, SetupResult
from fedkd.federation.store import SETUP, StateRef, round_folder
from fedkd.federation.wire import Bundle, Parcel, pack, travels, unpack
from fedkd.federation.workspace import Node, Workspace
from fedkd.rows import Rows
from fedkd.tasks.calls import precision
from fedkd.version import __version__

STATE = "state"  # slot of what a trainer keeps between rounds
FAILURE = "failure"  # header key of the parcel of a client that failed
RESIDENT_CLIENTS = 64  # kept in memory by a worker beyond those of its last message, where the store has them too


@dataclass(eq=False)
class ClientHost:
    """Answers requests for any client that lives here.

    Attributes:
        node: facts of this machine.
        write_through: write every new state to the store at once, because the next message for a client may reach
            another process; else only where the request says `durable`.
    """

    node: Node = field(default_factory=Node)
    write_through: bool = True
    _workspace: Workspace | None = None
    _common: _Common | None = None
    _resident: dict[tuple[int, str], tuple[str, Any]] = field(default_factory=dict)

    def handle(self, common: bytes, cohort: bytes) -> bytes:
        """The reply to one request: its shared part and its cohort's part."""
        # All cohorts of a round get the same shared part: it is read once, and so is the knowledge in it.
        if self._common is None or self._common.data != common:
            self._common = _Common(common, unpack(common))
        shared, own = self._common.bundle, unpack(cohort)
        if shared.kind != own.kind:
            raise BadReplyError(f"request parts are of kinds {shared.kind!r} and {own.kind!r}")
        workspace = self._work_in(Job.from_json(shared.shared.header.get("job", {})))
        answers: Mapping[str, Callable[[Workspace, Parcel, dict[int, Parcel]], Bundle]] = {
            HELLO: self._hello,
            CONTRIBUTE: self._contribute,
            PROXY: self._set_up,
            ASSIGN: self._assign,
            ROUND: self._round,
        }
        if shared.kind not in answers:
            raise BadReplyError(f"request is of kind {shared.kind!r}, expected one of {', '.join(answers)}")
        reply = answers[shared.kind](workspace, shared.shared, own.clients)
        reply.shared.header["process"] = {"pid": os.getpid(), "peak_rss_bytes": own_peak_rss()}
        return pack(reply)

    def _work_in(self, job: Job) -> Workspace:
        """The workspace of this run; a new run drops what the last one left."""
        if self._workspace is None or self._workspace.job != job:
            self._workspace, self._resident = Workspace(job, self.node), {}
        return self._workspace

    def _hello(self, workspace: Workspace, _: Parcel, __: dict[int, Parcel]) -> Bundle:
        """Who lives here. Imports no torch: it is the first thing that a slow device does."""
        here = self.node.client_ids
        rows = {} if here is None else {str(i): len(workspace.data(i).train) for i in here}
        header = {
            "clients": None if here is None else list(here),
            "rows": rows,
            "partition": workspace.partition.digest if workspace.job.partition else "",
            "versions": {"fedkd": __version__, **{name: version(name) for name in ("torch", "numpy")}},
            "device": self.node.profile.name,
        }
        return Bundle(HELLO, Parcel(header))

    def _contribute(self, workspace: Workspace, _: Parcel, clients: dict[int, Parcel]) -> Bundle:
        wants_labels = workspace.experiment.proxy.diagnostics

        def answer(client_id: int) -> Parcel:
            given = workspace.contribution(client_id)[0]
            shown = workspace.task.public(given)
            return travels(Contribution(shown, labels=given.strata if wants_labels else None).to_parcel())

        return Bundle(CONTRIBUTE, Parcel(), _each(clients, answer))

    def _set_up(self, workspace: Workspace, shared: Parcel, clients: dict[int, Parcel]) -> Bundle:
        """Fit each client's filter and score the proxy set: once, for the whole run."""
        proxy = Samples.of_arrays(shared.arrays)
        workspace.keep_proxy(str(shared.header["proxy_version"]), proxy)
        offers_margins = workspace.experiment.selection.rule == "nearest"
        states: dict[int, _New] = {}

        def answer(client_id: int) -> Parcel:
            started = time.perf_counter()
            own_ids = clients[client_id].arrays["own_ids"].astype(np.int64)
            chosen = choose(workspace, client_id, proxy, own_ids)
            new = _New.of({"own_ids": own_ids, "accepted": chosen.accepted, "weight": chosen.weight})
            result = SetupResult(
                ref=new.ref,
                accepted=chosen.accepted,
                margin=chosen.margin if offers_margins else None,
                threshold=chosen.threshold,
                holdout_counts=chosen.score_holdout_counts,
                proxy_counts=chosen.score_proxy_counts,
                seconds=time.perf_counter() - started,
            )
            reply = travels(result.to_parcel())
            states[client_id] = new  # nothing is left that can fail
            return reply

        parcels = _each(clients, answer)
        self._adopt(workspace, SETUP, SETUP, states, parcels)
        return Bundle(PROXY, Parcel(), parcels)

    def _assign(self, workspace: Workspace, _: Parcel, clients: dict[int, Parcel]) -> Bundle:
        """Take over which samples the coordinator lets each client speak for."""
        states: dict[int, _New] = {}

        def answer(client_id: int) -> Parcel:
            assigned = Assignment.from_parcel(clients[client_id])
            setup = self._state(workspace, client_id, SETUP, assigned.ref)
            states[client_id] = _New.of({**setup, "accepted": assigned.accepted})
            return Parcel({"ref": states[client_id].ref.to_json()})

        parcels = _each(clients, answer)
        self._adopt(workspace, SETUP, SETUP, states, parcels)
        return Bundle(ASSIGN, Parcel(), parcels)

    def _round(self, workspace: Workspace, shared: Parcel, clients: dict[int, Parcel]) -> Bundle:
        assert self._common is not None  # `shared` came with it
        request = RoundRequest.from_bundles(shared, clients, workspace.downlink, common=self._common.knowledge)
        self._common.knowledge = request.knowledge.common
        is_written = self.write_through or request.durable
        states: dict[int, _New] = {}
        parcels: dict[int, Parcel] = {}
        asked = [client_id for client_id in sorted(clients) if client_id not in request.idle]
        with precision(workspace.experiment.engine.precision):
            for group in groups(workspace, asked):
                self._visit(workspace, request, group, states, parcels, is_written=is_written)
        parcels |= {client_id: Parcel({IDLE: True}) for client_id in sorted(request.idle)}
        if is_written:
            self._add_unwritten(request, states, parcels)
        folder = round_folder(request.round_id) if is_written else ""
        self._adopt(workspace, STATE, folder, states, parcels, durable=request.durable)
        workspace.store.prune(request.keep, before=request.round_id)
        if self.write_through:
            self._forget(max(RESIDENT_CLIENTS, len(clients)))
        return Bundle(ROUND, Parcel(), parcels)

    def _visit(
        self,
        workspace: Workspace,
        request: RoundRequest,
        group: Iterable[int],
        states: dict[int, _New],
        parcels: dict[int, Parcel],
        *,
        is_written: bool,
    ) -> None:
        """Train a group of clients, each as if it were alone; adds to `states` and `parcels`."""
        visits: dict[int, Visit] = {}

        def arrive(client_id: int) -> None:
            setup_ref, state_ref = request.states[client_id]
            visits[client_id] = visit(
                workspace,
                request,
                client_id,
                setup=None if setup_ref is None else self._state(workspace, client_id, SETUP, setup_ref),
                state=None if state_ref is None else self._state(workspace, client_id, STATE, state_ref),
            )

        parcels |= _failures(group, arrive)
        together = fit_together(workspace, visits)

        def leave(client_id: int) -> None:
            fitted = together.get(client_id) or fit_alone(workspace, visits[client_id])
            result, parcel = finish(workspace, request, visits[client_id].ctx, fitted, is_written=is_written)
            parcels[client_id] = travels(result.to_parcel(workspace.uplink))
            # Only now is nothing left that can fail: a client that raises keeps the state that it had.
            states[client_id] = _New(fitted.state, parcel, result.ref)

        parcels |= _failures(visits, leave)

    def _state(self, workspace: Workspace, client_id: int, slot: str, ref: StateRef) -> Any:
        """The expected state: resident where the digest agrees, else from the store."""
        digest, state = self._resident.get((client_id, slot), ("", None))
        if digest != ref.digest:
            state = workspace.store.read(ref, client_id)
        self._keep(client_id, slot, ref.digest, state)
        return state

    def _keep(self, client_id: int, slot: str, digest: str, state: Any) -> None:
        """Keep a state in memory; those used last come last."""
        self._resident.pop((client_id, slot), None)
        self._resident[client_id, slot] = (digest, state)

    def _forget(self, num_clients: int) -> None:
        """Drop all but the clients used last: other workers may serve the rest by now, and the store has them."""
        last = {*list(dict.fromkeys(client_id for client_id, _ in reversed(self._resident)))[:num_clients]}
        self._resident = {key: kept for key, kept in self._resident.items() if key[0] in last}

    def _add_unwritten(self, request: RoundRequest, states: dict[int, _New], parcels: dict[int, Parcel]) -> None:
        """Clients that failed or rested keep their state; one that is in memory alone becomes durable now."""
        for client_id, (_, ref) in request.states.items():
            if client_id not in states and ref is not None and not ref.file:
                digest, state = self._resident.get((client_id, STATE), ("", None))
                if digest == ref.digest:
                    states[client_id] = _New.of(state)
                    parcels[client_id].header["ref"] = states[client_id].ref.to_json()

    def _adopt(
        self,
        workspace: Workspace,
        slot: str,
        folder: str,
        states: dict[int, _New],
        parcels: dict[int, Parcel],
        *,
        durable: bool = True,
    ) -> None:
        """Keep new states in memory; with a `folder` write them too, and tell in the replies where."""
        for client_id, new in states.items():
            self._keep(client_id, slot, new.ref.digest, new.live)
        if folder and states:
            digests = {client_id: new.ref.digest for client_id, new in states.items()}
            written = {i: new.parcel for i, new in states.items() if new.parcel is not None}
            name = workspace.store.write(folder, written, digests, durable=durable)
            for client_id in states:
                parcels[client_id].header["ref"][0] = name


@dataclass(eq=False)
class _Common:
    """The part of a request that all cohorts get: as it came, unpacked, and the knowledge in it once decoded."""

    data: bytes
    bundle: Bundle
    knowledge: tuple[Rows, ...] | None = None


@dataclass(frozen=True, eq=False)
class _New:
    """A state that is about to be adopted: live, its reference, and as a parcel where it is to be written."""

    live: Any
    parcel: Parcel | None
    ref: StateRef

    @classmethod
    def of(cls, live: Any) -> _New:
        parcel = tree.to_parcel(live)
        return cls(live, parcel, StateRef("", tree.digest(parcel)))


def own_peak_rss() -> int:
    """Peak memory of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kB


def failure_of(client_id: int, parcel: Parcel) -> ClientFailure | None:
    """The failure that a reply's parcel stands for, if it does."""
    reason = parcel.header.get(FAILURE)
    if reason is None:
        return None
    ref = RoundResult.ref_of(parcel) if "ref" in parcel.header else None
    return ClientFailure(client_id, str(reason), ref)


def _each(clients: Iterable[int], answer: Callable[[int], Parcel]) -> dict[int, Parcel]:
    """One parcel per client: its answer, or why there is none."""
    parcels: dict[int, Parcel] = {}

    def note(client_id: int) -> None:
        parcels[client_id] = answer(client_id)

    return parcels | _failures(clients, note)


def _failures(clients: Iterable[int], work: Callable[[int], None]) -> dict[int, Parcel]:
    """Do the work for each client; why it could not be done, by client. The one place that catches all and goes on."""
    failures = {}
    for client_id in sorted(clients):
        try:
            work(client_id)
        except FedKDError as error:
            failures[client_id] = Parcel({FAILURE: str(error)})
        except Exception as error:
            failures[client_id] = Parcel({FAILURE: f"{type(error).__name__}: {error}"})
    return failures

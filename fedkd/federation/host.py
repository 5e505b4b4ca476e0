"""A worker: it keeps clients resident and answers the coordinator's messages, one cohort at a time."""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import numpy as np

from fedkd import __version__
from fedkd.data.base import Samples
from fedkd.errors import BadReplyError, FedKDError
from fedkd.federation import tree
from fedkd.federation.messages import (
    CONTRIBUTE,
    HELLO,
    PROXY,
    ROUND,
    ClientFailure,
    Contribution,
    Job,
    RoundRequest,
    RoundResult,
    SetupResult,
)
from fedkd.federation.store import SETUP, StateRef, round_folder
from fedkd.federation.wire import Bundle, Parcel, pack, travels, unpack
from fedkd.federation.workspace import Node, Workspace
from fedkd.filters.selection import select
from fedkd.rows import Rows, Share
from fedkd.streams import stream, stream_seed

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
    _resident: dict[tuple[int, str], tuple[str, Any]] = field(default_factory=dict)

    def handle(self, common: bytes, cohort: bytes) -> bytes:
        """The reply to one request: its shared part and its cohort's part."""
        shared, own = unpack(common), unpack(cohort)
        if shared.kind != own.kind:
            raise BadReplyError(f"request parts are of kinds {shared.kind!r} and {own.kind!r}")
        workspace = self._work_in(Job.from_json(shared.shared.header.get("job", {})))
        answers: Mapping[str, Callable[[Workspace, Parcel, dict[int, Parcel]], Bundle]] = {
            HELLO: self._hello,
            CONTRIBUTE: self._contribute,
            PROXY: self._set_up,
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
            return travels(Contribution(x=given.x, labels=given.y if wants_labels else None).to_parcel())

        return Bundle(CONTRIBUTE, Parcel(), _each(clients, answer))

    def _set_up(self, workspace: Workspace, shared: Parcel, clients: dict[int, Parcel]) -> Bundle:
        """Fit each client's filter and score the proxy set: once, for the whole run."""
        proxy = Samples(shared.arrays["x"], shared.arrays.get("y"))
        workspace.keep_proxy(str(shared.header["proxy_version"]), proxy)
        trees: dict[int, Parcel] = {}

        def answer(client_id: int) -> Parcel:
            started = time.perf_counter()
            own_ids = clients[client_id].arrays["own_ids"].astype(np.int64)
            experiment = workspace.experiment
            seed = stream_seed(experiment.core.seed, "filter", client=client_id)
            chosen = select(
                experiment.filter.create(seed=seed % 2**32),
                private=workspace.data(client_id).train,
                proxy=proxy,
                own_ids=own_ids,
                own_sample_stage=experiment.selection.own_sample_stage,
                holdout=experiment.selection.holdout,
                rng=stream(experiment.core.seed, "filter-holdout", client=client_id),
            )
            kept = {"own_ids": own_ids, "accepted": chosen.accepted}
            parcel = tree.to_parcel(kept)
            ref = StateRef("", tree.digest(parcel))
            result = SetupResult(
                ref=ref,
                accepted=chosen.accepted,
                threshold=chosen.threshold,
                holdout_counts=chosen.score_holdout_counts,
                proxy_counts=chosen.score_proxy_counts,
                seconds=time.perf_counter() - started,
            )
            reply = travels(result.to_parcel())
            trees[client_id] = parcel  # nothing is left that can fail
            self._keep(client_id, SETUP, ref.digest, kept)
            return reply

        parcels = _each(clients, answer)
        self._write(workspace, SETUP, trees, parcels)
        return Bundle(PROXY, Parcel(), parcels)

    def _round(self, workspace: Workspace, shared: Parcel, clients: dict[int, Parcel]) -> Bundle:
        request = RoundRequest.from_bundles(shared, clients, workspace.downlink)
        trees: dict[int, Parcel] = {}

        def answer(client_id: int) -> Parcel:
            result, state, parcel = self._train(workspace, request, client_id)
            reply = travels(result.to_parcel(workspace.uplink))
            # Only now is nothing left that can fail: a client that raises keeps the state that it had.
            trees[client_id] = parcel
            self._keep(client_id, "state", result.ref.digest, state)
            return reply

        parcels = _each(clients, answer)
        if self.write_through or request.durable:
            self._add_unwritten(request, trees, parcels)
            self._write(workspace, round_folder(request.round_id), trees, parcels)
        workspace.store.prune(request.keep, before=request.round_id)
        if self.write_through:
            self._forget(max(RESIDENT_CLIENTS, len(clients)))
        return Bundle(ROUND, Parcel(), parcels)

    def _train(self, workspace: Workspace, request: RoundRequest, client_id: int) -> tuple[RoundResult, Any, Parcel]:
        """Fit, predict, share and evaluate one client; with its new state, live and as a parcel."""
        started = time.perf_counter()
        setup_ref, state_ref = request.states[client_id]
        proxy = None
        if setup_ref is not None:
            setup = self._state(workspace, client_id, SETUP, setup_ref)
            proxy = workspace.proxy(request.proxy_version, setup["own_ids"], setup["accepted"], request.asked)
        ctx = workspace.context(client_id, round_id=request.round_id, closing=request.closing, proxy=proxy)
        trainer = workspace.trainer
        state = trainer.init(ctx) if state_ref is None else self._state(workspace, client_id, "state", state_ref)
        state, metrics = trainer.fit(ctx, state, request.knowledge.seen_by(client_id))
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise FedKDError(f"training diverged: {name} is {value}; lower schedule.lr")
        share = Share(client_id=client_id, round_id=request.round_id)
        if request.wants_share:
            share = self._share(workspace, ctx, state)
        score, tables, figures = None, {}, {}
        if request.evaluate:
            test = ctx.data.test
            every = np.arange(len(test) * ctx.task.rows_per_sample)
            found = ctx.task.evaluate(trainer.predict(ctx, state, test, every)[0], test)
            score, tables, figures = found.score, dict(found.tables), found.metrics
        parcel = tree.to_parcel(state)
        result = RoundResult(
            share=replace(share, metrics=metrics | share.metrics),
            ref=StateRef("", tree.digest(parcel)),
            score=score,
            tables=tables,
            metrics=figures,
            seconds=time.perf_counter() - started,
        )
        return result, state, parcel

    def _share(self, workspace: Workspace, ctx: Any, state: Any) -> Share:
        """The trainer's share; whatever it predicts, rows that the client's filter rejects do not leave."""
        trainer, proxy = workspace.trainer, ctx.proxy
        rows: tuple[Rows, ...] = ()
        if proxy is not None and trainer.space == "proxy":
            samples = proxy.asked if trainer.needs_full_proxy else proxy.asked[proxy.accepted[proxy.asked]]
            rows = trainer.predict(ctx, state, proxy.samples, rows_of(samples, proxy.rows_per_sample))
        share = trainer.share(ctx, state, rows)
        if proxy is None or not trainer.needs_full_proxy:
            return share
        allowed = tuple(
            r.where(proxy.accepted[r.ids // proxy.rows_per_sample]) if r.space == "proxy" else r for r in share.rows
        )
        return replace(share, rows=allowed)

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

    def _add_unwritten(self, request: RoundRequest, trees: dict[int, Parcel], parcels: dict[int, Parcel]) -> None:
        """Clients that failed keep their state; where it is only in memory, it becomes durable with the others."""
        for client_id, (_, ref) in request.states.items():
            if client_id not in trees and ref is not None and not ref.file:
                digest, state = self._resident.get((client_id, "state"), ("", None))
                if digest == ref.digest:
                    trees[client_id] = tree.to_parcel(state)
                    parcels[client_id].header["ref"] = ["", digest]

    def _write(self, workspace: Workspace, folder: str, trees: dict[int, Parcel], parcels: dict[int, Parcel]) -> None:
        """Write the states of the clients that succeeded, and tell in their replies where."""
        if not trees:
            return
        digests = {i: str(parcels[i].header["ref"][1]) for i in trees}
        name = workspace.store.write(folder, trees, digests)
        for client_id in trees:
            parcels[client_id].header["ref"][0] = name


def own_peak_rss() -> int:
    """Peak memory of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kB


def rows_of(samples: np.ndarray, rows_per_sample: int) -> np.ndarray:
    """Row ids of all positions of the samples, ascending."""
    ids: np.ndarray = (samples[:, None] * rows_per_sample + np.arange(rows_per_sample)).reshape(-1)
    return ids


def failure_of(client_id: int, parcel: Parcel) -> ClientFailure | None:
    """The failure that a reply's parcel stands for, if it does."""
    reason = parcel.header.get(FAILURE)
    if reason is None:
        return None
    ref = RoundResult.ref_of(parcel) if "ref" in parcel.header else None
    return ClientFailure(client_id, str(reason), ref)


def _each(clients: Mapping[int, Parcel], answer: Callable[[int], Parcel]) -> dict[int, Parcel]:
    """One parcel per client: its answer, or why there is none. The one place that catches everything and goes on."""
    parcels = {}
    for client_id in sorted(clients):
        try:
            parcels[client_id] = answer(client_id)
        except FedKDError as error:
            parcels[client_id] = Parcel({FAILURE: str(error)})
        except Exception as error:
            parcels[client_id] = Parcel({FAILURE: f"{type(error).__name__}: {error}"})
    return parcels

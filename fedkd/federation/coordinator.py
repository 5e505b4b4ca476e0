"""The coordinator: the round loop, from hello to the closing message."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, final

import numpy as np

from fedkd import metric_names as m
from fedkd.combinations import metric_of
from fedkd.exchange.scheme import ServerContext, ServerScheme
from fedkd.experiment import Experiment
from fedkd.federation.answers import Answers, expected_shares
from fedkd.federation.border import Expected
from fedkd.federation.checkpoint import Checkpoints, Progress
from fedkd.federation.diagnostics import Teaching, acceptance
from fedkd.federation.emitter import SETUP_ROUND, Emitter
from fedkd.federation.fleet import Fleet
from fedkd.federation.host import own_peak_rss
from fedkd.federation.messages import Job, Request, RoundRequest
from fedkd.federation.preflight import Plan, participants_per_round, server_model_builder
from fedkd.federation.round_numbers import round_numbers
from fedkd.federation.set_up import SetUp, clients_of
from fedkd.federation.setting import Setting
from fedkd.federation.traffic import SelectionTally
from fedkd.federation.workspace import Node, Workspace
from fedkd.filters.selection import SCORE_BINS
from fedkd.rows import Knowledge, Share
from fedkd.streams import stream
from fedkd.types import Ids

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunPaths:
    """Absolute paths of one run."""

    state_root: Path
    partition: Path
    checkpoints: Path


@final
class Coordinator:
    """Runs one experiment over a fleet; every number goes to the emitter, every round into a checkpoint in time."""

    def __init__(self, experiment: Experiment, fleet: Fleet, *, plan: Plan, paths: RunPaths, emitter: Emitter) -> None:
        self._experiment = experiment
        self._fleet = fleet
        self._plan = plan
        self._emitter = emitter
        self._checkpoints = Checkpoints(paths.checkpoints)
        self._job = Job(experiment=experiment.flat(), state_root=str(paths.state_root), partition=str(paths.partition))
        self._here = Workspace(self._job, Node())
        self._here.dataset = plan.dataset  # loaded already
        self._scheme: ServerScheme = experiment.scheme.create()
        self._exchanges = bool(self._scheme.spaces)

    def run(self) -> None:
        """From where the checkpoints say, or from the start, to the closing message.

        Raises:
            QuorumError: a round had fewer good replies than `engine.min_good_replies`.
            RunError: the set-up failed.
        """
        set_up = SetUp(self._experiment, self._fleet, self._job, self._plan)
        set_up.hello()
        setting, progress = self._checkpoints.load_setting(), self._checkpoints.load()
        if setting is None or progress is None:
            self._emitter.rewind({"metrics": 0, "timings": 0})
            setting, progress = self._set_up(set_up)
        else:
            self._emitter.rewind(progress.position)
        rounds, every = self._experiment.core.rounds, self._experiment.checkpoint.every
        while progress.next_round < rounds:
            round_id = progress.next_round
            durable = (round_id + 1) % every == 0 or round_id + 1 == rounds
            progress = self._round(setting, progress, durable=durable)
            if durable:
                progress = self._checkpoints.save(replace(progress, position=self._emitter.position()))
        if progress.next_round == rounds:
            progress = self._round(setting, progress, durable=True, closing=True)
            self._checkpoints.save(replace(progress, position=self._emitter.position()))

    def _set_up(self, set_up: SetUp) -> tuple[Setting, Progress]:
        """The set-up messages, their numbers and the first checkpoint."""
        started = time.perf_counter()
        setting, numbers, clocks = set_up.run()
        counts = self._plan.class_counts
        numbers |= acceptance(setting, counts, self._experiment.core.num_clients)
        numbers |= {m.CLASS_COUNTS: counts.tolist(), m.SKEW: self._plan.skew()}
        if setting.proxy is not None:
            numbers[m.SCORE_BINS] = SCORE_BINS.tolist()
        self._emitter.emit(SETUP_ROUND, numbers)
        self._emitter.clock(SETUP_ROUND, {**clocks, m.SECONDS_ROUND: time.perf_counter() - started})
        self._checkpoints.save_setting(setting)
        progress = Progress(scheme=self._scheme.init(self._server_context(setting, 0, {})))
        return setting, self._checkpoints.save(replace(progress, position=self._emitter.position()))

    def _round(self, setting: Setting, progress: Progress, *, durable: bool, closing: bool = False) -> Progress:
        """One round, or the closing message: ask, check, aggregate, emit."""
        started = time.perf_counter()
        round_id = progress.next_round
        asked = None if closing else self._asked(setting, round_id)
        request = self._request(setting, progress, asked, durable=durable, closing=closing)
        wire = request.to_request(self._here.downlink)
        task = self._here.task
        expected = expected_shares(setting, request, trainer=self._here.trainer, task=task)
        answers = Answers()
        selection = SelectionTally(expected, self._here.uplink)
        diagnostics = Teaching(
            setting,
            self._plan.class_counts,
            asked=asked,
            rows_per_sample=task.rows_per_sample,
            valid=None if setting.proxy is None else task.valid(setting.proxy),
            has_classes=self._plan.dataset.train.groups is None,
        )
        arriving = _Arriving(self._arrivals(setting, request, wire, expected, answers), selection, diagnostics)
        scheme, knowledge = progress.scheme, Knowledge()
        emitted: dict[str, Any] = {}
        aggregating = time.perf_counter()
        if request.wants_share:
            context = self._server_context(setting, round_id, emitted)
            # One that reads them once has said so and takes an iterator; the others get them all.
            shares = cast(Sequence[Share], arriving) if self._scheme.one_pass else list(arriving)
            scheme, knowledge = self._scheme.step(context, scheme, shares)
        seconds_aggregate = time.perf_counter() - aggregating
        for _ in arriving:  # what the scheme did not ask for still counts
            pass
        scores = {**progress.scores, **{i: r.score for i, r in answers.good.items() if r.score is not None}}
        told = wire.shared.nbytes + sum(extra.nbytes for extra in request.knowledge.extras)
        numbers = round_numbers(
            request,
            answers,
            scores=scores,
            downlink={i: told + parcel.nbytes for i, parcel in wire.clients.items() if i not in request.idle},
            num_clients=self._experiment.core.num_clients,
            metric=metric_of(self._experiment)[0],
        )
        if request.wants_share:
            numbers = {**diagnostics.numbers(knowledge), **numbers, **selection.numbers(), **emitted}
        self._emitter.emit(round_id, numbers)
        self._emitter.clock(
            round_id,
            {
                m.SECONDS_TRAIN: sum(result.seconds for result in answers.good.values()),
                m.SECONDS_AGGREGATE: max(0.0, seconds_aggregate - arriving.seconds),
                m.SECONDS_ROUND: time.perf_counter() - started,
                m.HEADER_BYTES: answers.header_bytes,
                m.PEAK_RSS_BYTES: sum({os.getpid(): own_peak_rss(), **answers.peaks}.values()),
            },
        )
        return replace(
            progress,
            next_round=round_id + 1,
            scheme=scheme,
            knowledge=knowledge,
            refs={**progress.refs, **answers.refs},
            scores=scores,
        )

    def _request(
        self, setting: Setting, progress: Progress, asked: Ids | None, *, durable: bool, closing: bool
    ) -> RoundRequest:
        """The message to the clients of this round that are set up.

        In a durable round, clients that rest are asked to write down a state that is only in memory.
        """
        experiment, round_id = self._experiment, progress.next_round
        ready = self._ready(setting)
        active = set(ready).intersection(self._participants(setting, round_id, closing=closing))
        unwritten = {i for i in ready if i in progress.refs and not progress.refs[i].file} if durable else set()
        return RoundRequest(
            job=self._job,
            round_id=round_id,
            closing=closing,
            evaluate=closing or (round_id + 1) % experiment.evaluate.every == 0,
            wants_share=self._exchanges and not closing,
            durable=durable,
            keep=progress.keep(),
            proxy_version=setting.version,
            asked=asked,
            knowledge=progress.knowledge,
            states={i: (setting.refs.get(i), progress.refs.get(i)) for i in sorted(active | unwritten)},
            idle=frozenset(unwritten - active),
        )

    def _ready(self, setting: Setting) -> list[int]:
        """The clients that are set up."""
        return [i for i in clients_of(self._experiment) if setting.proxy is None or i in setting.refs]

    def _participants(self, setting: Setting, round_id: int, *, closing: bool) -> Sequence[int]:
        """The clients of a round: a fresh draw each time from those that are set up; the closing message is for all."""
        core = self._experiment.core
        if closing or core.participation == 1.0:
            return clients_of(self._experiment)
        rng, ready = stream(core.seed, "participants", round_id=round_id), self._ready(setting)
        size = min(participants_per_round(core), len(ready))
        return sorted(int(i) for i in rng.choice(ready, size=size, replace=False))

    def _arrivals(
        self, setting: Setting, request: RoundRequest, wire: Request, expected: Expected, answers: Answers
    ) -> Iterator[Share]:
        """Send the request; good shares as they come. Ends in QuorumError where too few were good."""
        engine = self._experiment.engine
        replies = self._fleet.broadcast(wire, deadline_s=engine.round_timeout_s)
        asked = request.states.keys() - request.idle
        yield from answers.arrivals(
            replies, clients=asked, codec=self._here.uplink, expected=expected, idle=request.idle
        )
        answers.add_missing(
            self._participants(setting, request.round_id, closing=request.closing),
            reason=f"no reply within {engine.round_timeout_s:g} s, or never set up",
        )
        for client_id, reason in sorted((answers.failures | answers.rejected).items()):
            _log.warning("round %d: client %d gave no usable reply: %s", request.round_id, client_id, reason)
        answers.check_quorum(request.round_id, engine.min_good_replies)

    def _asked(self, setting: Setting, round_id: int) -> Ids | None:
        """The proxy samples of this round; None for all."""
        size = self._experiment.proxy.per_round
        if setting.proxy is None or not size or size >= len(setting.proxy):
            return None
        rng = stream(self._experiment.core.seed, "proxy-subset", round_id=round_id)
        return np.sort(rng.choice(len(setting.proxy), size=size, replace=False))

    def _server_context(self, setting: Setting, round_id: int, emitted: dict[str, Any]) -> ServerContext:
        seed = self._experiment.core.seed
        return ServerContext(
            round_id=round_id,
            seed=seed,
            num_clients=self._experiment.core.num_clients,
            num_classes=self._plan.dataset.num_classes,
            proxy=setting.proxy,
            rows_per_sample=self._here.task.rows_per_sample,
            test=self._plan.dataset.test,
            build_model=server_model_builder(self._experiment, self._plan.dataset),
            rng=lambda name: stream(seed, name, round_id=round_id),
            emit=emitted.update,
        )


@final
class _Arriving:
    """Shares on their way to the scheme, counted as they pass. `seconds`: how long the scheme waited for them."""

    def __init__(self, shares: Iterator[Share], *tallies: SelectionTally | Teaching) -> None:
        self._shares = shares
        self._tallies = tallies
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Share]:
        while True:
            started = time.perf_counter()
            share = next(self._shares, None)
            if share is not None:
                for tally in self._tallies:
                    tally.add(share)
            self.seconds += time.perf_counter() - started
            if share is None:
                return
            yield share

"""What one client does with a message: choose from the proxy set, train, share, be evaluated."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np

from fedkd.data.base import Samples
from fedkd.data.proxy import Proxy
from fedkd.errors import FedKDError
from fedkd.federation import tree
from fedkd.federation.fitting import Fitted, Visit
from fedkd.federation.messages import RoundRequest, RoundResult
from fedkd.federation.store import StateRef, in_memory
from fedkd.federation.wire import Parcel
from fedkd.federation.workspace import Workspace
from fedkd.filters.features import build_feature_map
from fedkd.filters.selection import Selection, select
from fedkd.methods.base import Context, LocalTrainer, State, streams_of
from fedkd.rows import Rows, Share, Stream, stream_of
from fedkd.streams import stream, stream_seed
from fedkd.types import Ids, Metrics


def choose(workspace: Workspace, client_id: int, proxy: Samples, own_ids: Ids) -> Selection:
    """What the client's filter makes of the proxy set: once, for the whole run."""
    experiment, keys, task = workspace.experiment, workspace.experiment.selection, workspace.task
    feature_map = build_feature_map(
        keys.features, dim=keys.feature_dim, checkpoint=keys.checkpoint, model=keys.feature_model
    )
    seed = stream_seed(experiment.core.seed, "filter", client=client_id)
    return select(
        experiment.filter.create(seed=seed % 2**32),
        private=task.filter_inputs(workspace.data(client_id).train),
        proxy=task.filter_inputs(proxy),
        own_ids=own_ids,
        own_sample_stage=keys.own_sample_stage,
        holdout=keys.holdout,
        rng=stream(experiment.core.seed, "filter-holdout", client=client_id),
        rule=keys.rule,
        softness=keys.softness,
        feature_map=feature_map,
    )


def visit(
    workspace: Workspace, request: RoundRequest, client_id: int, *, setup: dict[str, Any] | None, state: State | None
) -> Visit:
    """What the client's trainer is given.

    Args:
        setup: what was chosen from the proxy set; None where there is none.
        state: of the last round; None before the first.
    """
    proxy = None if setup is None else workspace.proxy(request.proxy_version, setup, request.asked)
    ctx = workspace.context(client_id, round_id=request.round_id, closing=request.closing, proxy=proxy)
    if state is None:
        state = workspace.trainer.init(ctx)
    return Visit(ctx, state, request.knowledge.seen_by(client_id))


def finish(
    workspace: Workspace, request: RoundRequest, ctx: Context, fitted: Fitted, *, is_written: bool
) -> tuple[RoundResult, Parcel | None]:
    """Predict, share and evaluate with what `fit` gave; and the new state as a parcel, if it is to be written."""
    started = time.perf_counter()
    trainer, state, metrics = workspace.trainer, fitted.state, fitted.metrics
    _check_finite(metrics)
    share = Share(client_id=ctx.client_id, round_id=request.round_id)
    if request.wants_share:
        share = share_of(trainer, ctx, state)
    score, tables, figures = None, {}, {}
    if request.evaluate:
        found = trainer.evaluate(ctx, state, ctx.data.test)
        _check_finite({"the score": found.score, **found.metrics})
        score, tables, figures = found.score, dict(found.tables), found.metrics
    parcel = tree.to_parcel(state) if is_written else None
    result = RoundResult(
        share=replace(share, metrics=metrics | share.metrics),
        ref=in_memory(request.round_id) if parcel is None else StateRef("", tree.digest(parcel)),
        score=score,
        tables=tables,
        metrics=figures,
        seconds=fitted.seconds + time.perf_counter() - started,
    )
    return result, parcel


def _check_finite(figures: Metrics) -> None:
    for name, value in figures.items():
        if not math.isfinite(value):
            raise FedKDError(f"training diverged: {name} is {value}; lower schedule.lr")


def share_of(trainer: LocalTrainer, ctx: Context, state: State) -> Share:
    """The trainer's share; whatever it predicts, rows of proxy samples that the client's filter rejects do not leave.

    Where the filter weighs (rule `soft`), its weights multiply those of the trainer. Rows of other spaces are the
    trainer's affair. Columns leave where their stream names them.
    """
    proxy, streams = ctx.proxy, streams_of(trainer, ctx.task)
    rows: tuple[Rows, ...] = ()
    if proxy is not None and any(each.space == "proxy" for each in streams):
        sees_all = trainer.needs_full_proxy or not trainer.rows_stand_alone
        samples = proxy.asked if sees_all else proxy.asked[proxy.accepted[proxy.asked]]
        rows = trainer.predict(ctx, state, proxy.samples, proxy.row_ids(samples))
    share = trainer.share(ctx, state, rows)
    return replace(share, rows=tuple(_cleared(each, proxy, stream_of(each, streams)) for each in share.rows))


def _cleared(rows: Rows, proxy: Proxy | None, declared: Stream | None) -> Rows:
    """What may leave of the rows: those that the filter accepts, with its weights, and the columns of their stream."""
    if proxy is not None and rows.space == "proxy":
        rows = rows.where(proxy.accepted[rows.ids // proxy.rows_per_sample])
        if proxy.weight is not None:
            rows = _weighted(rows, proxy.weight[rows.ids // proxy.rows_per_sample])
    names = frozenset() if declared is None else declared.columns
    return replace(rows, columns={name: column for name, column in rows.columns.items() if name in names})


def _weighted(rows: Rows, weight: np.ndarray) -> Rows:
    """The rows with their weights times `weight` (n,)."""
    if rows.weight is None:
        return replace(rows, weight=weight)
    return replace(rows, weight=rows.weight * (weight if rows.weight.ndim == 1 else weight[:, None]))

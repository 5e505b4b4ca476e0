"""Two opinions per row: the student of this round and the running average of its weights, weighted by class counts."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np
import torch

from fedkd.checks import check_choice, check_range
from fedkd.data.base import Samples
from fedkd.functional.aggregation import softmax
from fedkd.functional.losses import soft_target_rows
from fedkd.methods.base import About, Context, LocalTrainer, ModelRole, State
from fedkd.methods.evaluation import evaluate_rows
from fedkd.methods.local_training import ORDERS, distil_loss, private_loss, student_optimizer, train_round
from fedkd.methods.taught import Taught
from fedkd.models.optimizers import load_optimizer, optimizer_state
from fedkd.models.pool import snapshot
from fedkd.models.weights import tensors_of
from fedkd.rows import Knowledge, Rows, Share
from fedkd.tasks.base import Evaluation
from fedkd.types import Array, Ids, Metrics

EMA = "ema"  # the variant of the averaged model


@dataclass(frozen=True, kw_only=True)
class EmaViewsConfig:
    """Joint training as in soft targets; the teacher is the mean of both views."""

    order: str = "joint"
    private_weight: float = 0.1  # weight of the private cross-entropy; >= 0
    kd_weight: float = 1.0  # weight of the distillation term; >= 0
    decay: float = 0.9  # of the averaged weights, per step; 0..1, higher is slower
    smoothing: float = 0.5  # what a class without samples counts for, as a share of the mean class count; > 0

    def __post_init__(self) -> None:
        check_choice("order", self.order, ORDERS)
        check_range("private_weight", self.private_weight, low=0.0)
        check_range("kd_weight", self.kd_weight, low=0.0)
        check_range("decay", self.decay, low=0.0, below=1.0)
        check_range("smoothing", self.smoothing, above=0.0)


@final
class EmaViews(LocalTrainer):
    """Shares probabilities of the student (main variant) and of its weight average (variant `ema`).

    The average is the mean teacher of Tarvainen & Valpola 2017; weights per row and class are smoothed class counts:
    who saw a class often is heard on it. Deviation: the average is a second voice to others, not a teacher at home.
    """

    Config: ClassVar[type] = EmaViewsConfig
    about = About(
        paper="Tarvainen, Valpola: Mean Teachers Are Better Role Models, arXiv 1703.01780",
        year=2017,
        selects="nothing itself: the client's filter does; rows weigh by class counts",
        exchanges="probabilities of the student and of its running average; the weighted mean of both",
    )
    tasks = frozenset({"classification"})
    kinds = frozenset({"probs"})
    models = (ModelRole(name="student"), ModelRole(name=EMA, source="copy_of_student"))

    def __init__(self, config: EmaViewsConfig) -> None:
        self.config = config

    def init(self, ctx: Context) -> State:
        """Student and average start equal."""
        with ctx.torch_rng("init"):
            weights = ctx.models.fresh()
        return {"student": weights, EMA: {name: tensor.clone() for name, tensor in weights.items()}, "optimizer": {}}

    def fit(self, ctx: Context, state: State, knowledge: Knowledge) -> tuple[State, Metrics]:
        """Train towards the mean of the aggregated views; the average follows every step."""
        model, average = ctx.models.load("student", state["student"]), ctx.models.load(EMA, state[EMA])
        optimizer = student_optimizer(ctx, model)
        load_optimizer(optimizer, state["optimizer"])
        heard = mean_of_views(knowledge.rows("proxy"))
        distil, num_targets = None, 0
        if heard is not None and ctx.proxy is not None:
            taught = Taught(heard, ctx.proxy.rows_per_sample)
            distil = distil_loss(ctx, model, taught, functools.partial(soft_target_rows, temperature=1.0))
            num_targets = len(taught)
        decay = self.config.decay

        def follow() -> None:
            with torch.no_grad():
                for slow, fast in zip(tensors_of(average).values(), tensors_of(model).values(), strict=True):
                    if slow.is_floating_point():
                        slow.lerp_(fast, 1 - decay)
                    else:
                        slow.copy_(fast)

        with ctx.torch_rng("fit"):
            metrics = train_round(
                ctx,
                model,
                optimizer,
                order=self.config.order,
                private=private_loss(ctx, model),
                distil=distil,
                num_targets=num_targets,
                private_weight=self.config.private_weight,
                kd_weight=self.config.kd_weight,
                after_step=follow,
            )
        return {"student": snapshot(model), EMA: snapshot(average), "optimizer": optimizer_state(optimizer)}, metrics

    def predict(self, ctx: Context, state: State, samples: Samples, ids: Ids) -> tuple[Rows, ...]:
        """Probabilities of the student and of the average."""
        views = []
        for role, variant in (("student", ""), (EMA, EMA)):
            model = ctx.models.load(role, state[role])
            rows = ctx.task.predict(model, samples, ids, batch_size=ctx.profile.predict_batch)
            views.append(replace(rows, kind="probs", values=softmax(rows.values), variant=variant))
        return tuple(views)

    def share(self, ctx: Context, state: State, rows: tuple[Rows, ...]) -> Share:  # noqa: ARG002 - the contract's arguments
        """Both views, each with weights (n, c) from the client's class counts."""
        counts = np.bincount(ctx.data.train.labels, minlength=ctx.task.num_outputs)
        heard = class_weights(counts, smoothing=self.config.smoothing)
        weighted = tuple(replace(view, weight=np.tile(heard, (len(view), 1))) for view in rows)
        return Share(client_id=ctx.client_id, round_id=ctx.round_id, rows=weighted)

    def evaluate(self, ctx: Context, state: State, samples: Samples) -> Evaluation:
        """The task's figures of the student."""
        return evaluate_rows(self, ctx, state, samples)


def class_weights(counts: Array, *, smoothing: float) -> Array:
    """Weights (c,) in (0, 1], largest 1: class counts plus `smoothing` times their mean."""
    smoothed = counts + smoothing * counts.mean()
    weights: Array = (smoothed / smoothed.max()).astype(np.float32)
    return weights


def mean_of_views(rows: tuple[Rows, ...]) -> Rows | None:
    """The mean over the variants that speak for each id; None where none does."""
    if not rows:
        return None
    ids = np.unique(np.concatenate([view.ids for view in rows]))
    total, voices = np.zeros((len(ids), rows[0].values.shape[1])), np.zeros((len(ids), 1))
    for view in rows:
        at = np.searchsorted(ids, view.ids)
        total[at] += view.values
        voices[at] += 1
    return Rows(space="proxy", kind="probs", ids=ids, values=(total / voices).astype(np.float32))

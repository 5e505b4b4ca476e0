"""Soft targets: the task's own loss on private data, distillation towards the aggregated outputs on the proxy set."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np
from torch import Tensor

from fedkd.checks import check_choice, check_range
from fedkd.data.base import Samples
from fedkd.errors import ConfigError
from fedkd.functional.aggregation import softmax
from fedkd.functional.losses import mae_rows, mse_rows, soft_cross_entropy_rows, soft_target_rows
from fedkd.functional.teachers import heard_columns, teacher_probs
from fedkd.methods.base import About, Context, LocalTrainer, State
from fedkd.methods.evaluation import evaluate_rows
from fedkd.methods.lesson import (
    Learned,
    Lesson,
    can_be_told,
    cross_entropy_term,
    distil_material,
    lesson_of,
    private_material,
)
from fedkd.methods.local_training import ORDERS, RowsLoss, distil_loss, private_loss, student_optimizer, train_round
from fedkd.methods.taught import Taught, once
from fedkd.models.optimizers import load_optimizer, optimizer_state
from fedkd.models.pool import snapshot
from fedkd.rows import Knowledge, Rows, Share
from fedkd.tasks.base import Evaluation
from fedkd.types import Ids, Metrics

SOFT_LOSSES = {"kl": soft_target_rows, "soft_ce": soft_cross_entropy_rows}  # of student logits and probabilities
LOGIT_LOSSES = {"mse": mse_rows, "mae": mae_rows}  # of student and teacher logits


@dataclass(frozen=True, kw_only=True)
class SoftTargetsConfig:
    """L = private_weight * (loss of the task) + kd_weight * D, D by default tau^2 * KL(teacher || student)."""

    order: str = "private_then_distil"  # or distil_then_private, or joint: both losses in each step
    temperature: float = 1.0  # tau; > 0; higher is softer. Aggregated probabilities are used as they are
    private_weight: float = 1.0  # weight of the private loss (cross-entropy by sample, pixel or token); >= 0
    kd_weight: float = 1.0  # lambda, weight of the distillation term; >= 0
    loss: str = "kl"  # D: kl, soft_ce (the same gradient), mse or mae (both on logits, whatever the temperature)
    payload: str = "logits"  # what is shared: logits, probs or hard (class numbers)

    def __post_init__(self) -> None:
        check_choice("order", self.order, ORDERS)
        check_range("temperature", self.temperature, above=0.0)
        check_range("private_weight", self.private_weight, low=0.0)
        check_range("kd_weight", self.kd_weight, low=0.0)
        check_choice("loss", self.loss, (*SOFT_LOSSES, *LOGIT_LOSSES))
        check_choice("payload", self.payload, ("logits", "probs", "hard"))
        if self.loss in LOGIT_LOSSES and self.payload != "logits":
            raise ConfigError(
                f"is {self.loss!r}, which compares logits, but method.payload is {self.payload!r}; "
                "set method.payload = 'logits' or method.loss = 'kl'",
                key="loss",
            )


@final
class SoftTargets(LocalTrainer):
    """The client update of EdgeFD, Selective-FD, FedMD and DS-FL; what differs between them is configuration."""

    Config: ClassVar[type] = SoftTargetsConfig
    about = About(
        paper="Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv 1503.02531",
        year=2015,
        selects="nothing itself: the client's filter does",
        exchanges="logits, probabilities or classes of proxy rows; the aggregate of the same",
    )
    tasks = frozenset({"classification", "segmentation", "language", "image_text"})

    def __init__(self, config: SoftTargetsConfig) -> None:
        self.config = config
        self.kinds = frozenset({config.payload})

    def init(self, ctx: Context) -> State:
        """A student with weights of this client's own."""
        with ctx.torch_rng("init"):
            return {"student": ctx.models.fresh(), "optimizer": {}}

    def fit(self, ctx: Context, state: State, knowledge: Knowledge) -> tuple[State, Metrics]:
        """Train in the configured order; the knowledge's main rows are the teacher."""
        model = ctx.models.load("student", state["student"])
        optimizer = student_optimizer(ctx, model)
        load_optimizer(optimizer, state["optimizer"])
        distil, num_targets = None, 0
        if (teaching := self._teaching(ctx, knowledge)) is not None:
            taught, rows_loss = teaching
            distil, num_targets = distil_loss(ctx, model, taught, rows_loss), len(taught)
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
            )
        return {"student": snapshot(model), "optimizer": optimizer_state(optimizer)}, metrics

    def lesson(self, ctx: Context, state: State, knowledge: Knowledge) -> Lesson | None:
        """`fit` as data."""
        if not can_be_told(ctx):
            return None
        distil, teaching = None, self._teaching(ctx, knowledge)
        if teaching is not None:
            distil = distil_material(ctx, *teaching, weight=self.config.kd_weight)
        private = private_material(ctx, cross_entropy_term(), weight=self.config.private_weight)
        return lesson_of(ctx, state, order=self.config.order, private=private, distil=distil)

    def learned(self, ctx: Context, state: State, lesson: Lesson, learned: Learned) -> tuple[State, Metrics]:  # noqa: ARG002 - the contract's arguments
        """The state after `fit`."""
        return {"student": learned.weights, "optimizer": learned.optimizer}, learned.metrics

    def predict(self, ctx: Context, state: State, samples: Samples, ids: Ids) -> tuple[Rows, ...]:
        """The student's logits."""
        model = ctx.models.load("student", state["student"])
        return (ctx.task.predict(model, samples, ids, batch_size=ctx.profile.predict_batch),)

    def share(self, ctx: Context, state: State, rows: tuple[Rows, ...]) -> Share:  # noqa: ARG002 - the contract's arguments
        """All rows, in the configured payload: the selection is the filter's."""
        payload = tuple(self._payload(logits) for logits in rows)
        return Share(client_id=ctx.client_id, round_id=ctx.round_id, rows=payload)

    def _payload(self, logits: Rows) -> Rows:
        if self.config.payload == "probs":
            return replace(logits, kind="probs", values=softmax(logits.values))
        if self.config.payload == "hard":
            return replace(logits, kind="hard", values=logits.values.argmax(axis=1)[:, None].astype(np.int32))
        return logits

    def evaluate(self, ctx: Context, state: State, samples: Samples) -> Evaluation:
        """The task's figures of the student."""
        return evaluate_rows(self, ctx, state, samples)

    def _teaching(self, ctx: Context, knowledge: Knowledge) -> tuple[Taught, RowsLoss] | None:
        """What the knowledge's main rows teach, and the loss against it; None where there is nothing to learn from."""
        heard = next((rows for rows in knowledge.rows("proxy") if not rows.variant), None)
        if heard is None or ctx.proxy is None:
            return None
        per_sample = ctx.proxy.rows_per_sample

        def make() -> tuple[Taught, RowsLoss]:
            targets, rows_loss = self._targets(heard)
            return Taught(targets, per_sample), rows_loss

        return once(heard, (self.config, per_sample), make)

    def _targets(self, heard: Rows) -> tuple[Rows, RowsLoss]:
        """What the rows of the knowledge teach, and the loss against it."""
        rows_loss: RowsLoss
        if self.config.loss in LOGIT_LOSSES:
            targets, rows_loss = heard.values, LOGIT_LOSSES[self.config.loss]
        else:
            tau = self.config.temperature
            targets = teacher_probs(heard, tau)
            rows_loss = functools.partial(SOFT_LOSSES[self.config.loss], temperature=tau)
        owned = heard_columns(heard)
        if owned is None:
            return replace(heard, values=targets), rows_loss
        # Where nobody owns a class there is no target: NaN marks it, since the loss sees batches of targets alone.
        marked = np.where(owned, targets, np.float32(np.nan))
        return replace(heard, values=marked), functools.partial(_over_heard, rows_loss=rows_loss)


def _over_heard(student: Tensor, targets: Tensor, *, rows_loss: Callable[..., Tensor]) -> Tensor:
    """`rows_loss` over the columns whose target is not NaN."""
    keep = ~targets.isnan()
    return rows_loss(student, targets.nan_to_num(0.0), keep=keep)

"""Soft targets: cross-entropy on private data, KL to the aggregated outputs on the proxy set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch

from fedkd.checks import check_choice, check_range
from fedkd.data.base import Samples
from fedkd.functional.aggregation import softmax
from fedkd.methods.base import Context, LocalTrainer, State
from fedkd.methods.local_training import ORDERS, distil_loss, private_loss, student_optimizer, train_round
from fedkd.models.optimizers import load_optimizer, optimizer_state
from fedkd.models.pool import snapshot
from fedkd.rows import Knowledge, Rows, Share
from fedkd.types import Ids, Metrics


@dataclass(frozen=True, kw_only=True)
class SoftTargetsConfig:
    """L = private_weight * CE(private) + kd_weight * tau^2 * KL(teacher || student)."""

    order: str = "private_then_distil"  # or distil_then_private, or joint: both losses in each step
    temperature: float = 1.0  # tau; > 0; higher is softer. Aggregated probabilities are used as they are
    private_weight: float = 1.0  # weight of the private cross-entropy; >= 0
    kd_weight: float = 1.0  # lambda, weight of the distillation term; >= 0
    payload: str = "logits"  # what is shared: logits or probs

    def __post_init__(self) -> None:
        check_choice("order", self.order, ORDERS)
        check_range("temperature", self.temperature, above=0.0)
        check_range("private_weight", self.private_weight, low=0.0)
        check_range("kd_weight", self.kd_weight, low=0.0)
        check_choice("payload", self.payload, ("logits", "probs"))


@final
class SoftTargets(LocalTrainer):
    """The client update of EdgeFD, Selective-FD, FedMD and DS-FL; what differs between them is configuration."""

    Config: ClassVar[type] = SoftTargetsConfig
    tasks = frozenset({"classification"})

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
        taught = next((rows for rows in knowledge.rows("proxy") if not rows.variant), None)
        distil = None
        if taught is not None and ctx.proxy is not None:
            tau = self.config.temperature
            targets = softmax(taught.values, temperature=tau) if taught.kind == "logits" else taught.values
            sample_ids = taught.ids // ctx.proxy.rows_per_sample
            distil = distil_loss(ctx, model, sample_ids, torch.from_numpy(targets), temperature=tau)
        with ctx.torch_rng("fit"):
            metrics = train_round(
                ctx,
                model,
                optimizer,
                order=self.config.order,
                private=private_loss(ctx, model),
                distil=distil,
                num_targets=0 if taught is None else len(taught),
                private_weight=self.config.private_weight,
                kd_weight=self.config.kd_weight,
            )
        return {"student": snapshot(model), "optimizer": optimizer_state(optimizer)}, metrics

    def predict(self, ctx: Context, state: State, samples: Samples, ids: Ids) -> tuple[Rows, ...]:
        """The student's answers in the configured payload."""
        model = ctx.models.load("student", state["student"])
        rows = ctx.task.predict(model, samples, ids, batch_size=ctx.profile.predict_batch)
        if self.config.payload == "probs":
            rows = replace(rows, kind="probs", values=softmax(rows.values))
        return (rows,)

    def share(self, ctx: Context, state: State, rows: tuple[Rows, ...]) -> Share:  # noqa: ARG002 - the contract's arguments
        """All rows: the selection is the filter's."""
        return Share(client_id=ctx.client_id, round_id=ctx.round_id, rows=rows)

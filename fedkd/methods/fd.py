"""FD: clients share the mean logit vector of each of their classes; no proxy set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from fedkd.checks import check_range
from fedkd.data.base import Samples
from fedkd.functional.losses import class_sums, masked_mean, soft_target_rows
from fedkd.methods.base import About, Context, LocalTrainer, State
from fedkd.methods.evaluation import evaluate_rows
from fedkd.methods.lesson import Learned, Lesson, Term, can_be_told, cross_entropy_term, lesson_of, private_material
from fedkd.methods.local_training import student_optimizer, train_round
from fedkd.models.optimizers import load_optimizer, optimizer_state
from fedkd.models.pool import snapshot
from fedkd.rows import Knowledge, Rows, Share
from fedkd.tasks.base import Evaluation
from fedkd.types import Ids, Metrics


@dataclass(frozen=True, kw_only=True)
class FdConfig:
    """L = CE(private) + kd_weight * KL(softmax(g(y)) || student)."""

    kd_weight: float = 1.0  # lam; >= 0

    def __post_init__(self) -> None:
        check_range("kd_weight", self.kd_weight, low=0.0)


@final
class FederatedDistillation(LocalTrainer):
    """Federated distillation, Jeong et al. 2018.

    The means run over the batches of the round, as trained on, so the state carries their sums to `share`.
    Deviation: counts start at 0 and a class without samples is not shared; the public reference code starts at 1 and
    averages clients in that never saw the class.
    """

    Config: ClassVar[type] = FdConfig
    about = About(
        paper="Jeong et al.: Communication-Efficient On-Device Machine Learning, arXiv 1811.11479",
        year=2018,
        selects="nothing: one row for each class that the client has",
        exchanges="mean logits by class; the mean over the other clients",
    )
    tasks = frozenset({"classification"})
    space = "class"
    kinds = frozenset({"logits"})

    def __init__(self, config: FdConfig) -> None:
        self.config = config

    def init(self, ctx: Context) -> State:
        """A student with weights of this client's own, and nothing summed up yet."""
        classes = ctx.task.num_outputs
        with ctx.torch_rng("init"):
            weights = ctx.models.fresh()
        return {
            "student": weights,
            "optimizer": {},
            "sums": torch.zeros(classes, classes),
            "counts": torch.zeros(classes),
        }

    def fit(self, ctx: Context, state: State, knowledge: Knowledge) -> tuple[State, Metrics]:
        """Private training, each sample drawn to the others' mean logits of its class. Nothing to digest at the end."""
        classes = ctx.task.num_outputs
        model = ctx.models.load("student", state["student"])
        optimizer = student_optimizer(ctx, model)
        load_optimizer(optimizer, state["optimizer"])
        targets, known = (table.to(ctx.device) for table in _targets(knowledge, classes))
        sums, counts = torch.zeros(classes, classes), torch.zeros(classes)
        train = ctx.data.train

        def loss(index: Ids) -> Tensor:
            batch = ctx.task.batch(train, index, ctx.device)
            logits, labels = ctx.task.answer(model, batch), batch.y
            batch_sums, batch_counts = class_sums(logits.detach().cpu(), labels.cpu(), num_classes=classes)
            sums.add_(batch_sums)
            counts.add_(batch_counts)
            drawn = masked_mean(soft_target_rows(logits, targets[labels], temperature=1.0), known[labels])
            return ctx.task.loss_of(logits, batch) + self.config.kd_weight * drawn

        with ctx.torch_rng("fit"):
            metrics = train_round(
                ctx, model, optimizer, order="private_then_distil", private=loss, distil=None, num_targets=0
            )
        state = {
            "student": snapshot(model),
            "optimizer": optimizer_state(optimizer),
            "sums": sums,
            "counts": counts,
        }
        return state, metrics

    def lesson(self, ctx: Context, state: State, knowledge: Knowledge) -> Lesson | None:
        """`fit` as data."""
        if not can_be_told(ctx):
            return None
        targets, known = (table.numpy() for table in _targets(knowledge, ctx.task.num_outputs))
        drawn = Term(
            rows=lambda logits, of: soft_target_rows(logits, of["target"], temperature=1.0),
            keep="known",
            weight=self.config.kd_weight,
        )
        labels = ctx.data.train.labels
        private = private_material(ctx, cross_entropy_term(), drawn, target=targets[labels], known=known[labels])
        return lesson_of(ctx, state, order="private_then_distil", private=private, keeps_answers=True)

    def learned(self, ctx: Context, state: State, lesson: Lesson, learned: Learned) -> tuple[State, Metrics]:
        """The state after `fit`, with the sums over the logits that were trained on."""
        assert learned.answers is not None  # it asked for them
        order = np.concatenate([index for (index,) in lesson.phases[0].batches])
        labels = torch.from_numpy(ctx.data.train.labels[order]).long()
        sums, counts = class_sums(learned.answers, labels, num_classes=ctx.task.num_outputs)
        state = {"student": learned.weights, "optimizer": learned.optimizer, "sums": sums, "counts": counts}
        return state, learned.metrics

    def predict(self, ctx: Context, state: State, samples: Samples, ids: Ids) -> tuple[Rows, ...]:
        """The student's logits; used for evaluation only."""
        model = ctx.models.load("student", state["student"])
        return (ctx.task.predict(model, samples, ids, batch_size=ctx.profile.predict_batch),)

    def share(self, ctx: Context, state: State, rows: tuple[Rows, ...]) -> Share:  # noqa: ARG002 - the contract's arguments
        """One row per class that the client trained on in this round. How many samples it had stays at home."""
        counts = state["counts"].numpy()
        ids = np.flatnonzero(counts)
        means = (state["sums"].numpy()[ids] / counts[ids, None]).astype(np.float32)
        row = Rows(space="class", kind="logits", ids=ids, values=means)
        return Share(client_id=ctx.client_id, round_id=ctx.round_id, rows=(row,))

    def evaluate(self, ctx: Context, state: State, samples: Samples) -> Evaluation:
        """The task's figures of the student."""
        return evaluate_rows(self, ctx, state, samples)


def _targets(knowledge: Knowledge, classes: int) -> tuple[Tensor, Tensor]:
    """The others' probabilities by class (c, c), and which classes (c,) they spoke for."""
    targets, known = torch.zeros(classes, classes), torch.zeros(classes, dtype=torch.bool)
    for rows in knowledge.rows("class"):
        ids = torch.from_numpy(rows.ids)
        targets[ids], known[ids] = torch.from_numpy(rows.values).softmax(-1), True
    return targets, known

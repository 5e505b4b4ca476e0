"""BPKD as a local trainer."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import ClassVar, TypeAlias, cast, final

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.data.base import IGNORE, Samples
from fedkd.functional.bpkd import edge_band
from fedkd.methods.base import About, Context, LocalTrainer, ModelRole, State
from fedkd.methods.bpkd.config import BPKDConfig
from fedkd.methods.bpkd.consensus import BODY, EDGE, Consensus, dense_rows, no_bands, selected_rows
from fedkd.methods.bpkd.stages import Terms, consensus_terms, distil_terms
from fedkd.methods.evaluation import tally_rows
from fedkd.methods.local_training import Loss, batches, mean_losses, step, student_optimizer, train_round
from fedkd.models.check import check_model
from fedkd.models.optimizers import load_optimizer, optimizer_state
from fedkd.models.pool import snapshot
from fedkd.rows import Knowledge, Rows, Share, Stream
from fedkd.tasks.base import Evaluation, Tally, Task
from fedkd.tasks.batches import SegBatch
from fedkd.tasks.segmentation import Segmentation
from fedkd.types import Flat, Ids, Metrics

Log: TypeAlias = defaultdict[str, list[Tensor]]  # each weighted term of a loss, step by step
_AT_EDGES = "edge_"  # before the names of counts and figures inside the edge band of the true masks


@final
class BPKD(LocalTrainer):
    """Boundary privileged knowledge distillation, Liu et al. 2024, and its controls; the federation is a teacher too.

    On private images: cross-entropy, and the losses against a teacher at home where there is one, the trimap from the
    masks. On proxy images: the same losses against the consensus, the trimap from its arg max. The teacher is that of
    `teacher.weights`, or trained on the client's own masks before round 0 (`teacher_steps`; from `teacher.weights`
    where there are some), with optimiser and batches of `schedule.*` at its rate, which neither warms up nor decays.

    Deviation: the paper has one student and one teacher that saw the same data, and no federation; the selective share
    and the consensus as teacher are fedkd's own.
    """

    Config: ClassVar[type] = BPKDConfig
    about = About(
        paper="Liu et al.: BPKD: Boundary Privileged Knowledge Distillation for Semantic Segmentation, WACV 2024",
        year=2024,
        selects="the edge band pixel by pixel, bodies averaged over cells",
        exchanges="logits of both, weighted by confidence; the mean over the clients that sent the pixel or cell",
    )
    tasks = frozenset({"segmentation"})
    kinds = frozenset({"logits"})
    models = (
        ModelRole(name="student"),
        ModelRole(name="teacher", group="teacher", frozen=True, optional=True),
    )
    toy_options: ClassVar[Flat] = {
        "method.lambda_edge": 0.3,
        "method.lambda_body": 3.0,
        "method.edge_width": 3,
        "method.body_factor": 2,
        "schedule.lr": 0.01,  # the squared temperature makes long steps
    }

    def __init__(self, config: BPKDConfig) -> None:
        self.config = config

    def streams(self, task: Task[Segmentation]) -> tuple[Stream, ...]:
        """Two selective ones, or a dense one."""
        variants = ("",) if self.config.share == "dense" else (EDGE, BODY)
        return tuple(
            # A dense share says all pixels once: bodies are then no rows of their own.
            Stream(space="proxy", kind="logits", width=task.num_outputs, variant=each, is_excerpt=each == BODY)
            for each in variants
        )

    def init(self, ctx: Context) -> State:
        """A student with weights of this client's own and, if asked for, a teacher trained on its own masks."""
        with ctx.torch_rng("init"):
            state: State = {"student": ctx.models.fresh(), "optimizer": {}, "heard": no_bands(_task(ctx))}
        if self.config.teacher_steps and self.config.loss != "ce":
            with ctx.torch_rng("teacher"):
                state["teacher"] = self._trained_teacher(ctx)
        return state

    def fit(self, ctx: Context, state: State, knowledge: Knowledge) -> tuple[State, Metrics]:
        """Private and proxy images as `order` says, the latter once a consensus was heard. Means of all weighted terms.

        Deviation: the specification takes private images first, then the consensus. The default, `joint`, takes both
        in each step, since steps without labels let classes drift: the body loss does not see an offset that is the
        same at all positions of a class. The closing message has no private part in any order.
        """
        config, task = self.config, _task(ctx)
        model = ctx.models.load("student", state["student"])
        optimizer = student_optimizer(ctx, model)
        load_optimizer(optimizer, state["optimizer"])
        consensus = Consensus(knowledge.rows("proxy"), task, factor=config.body_factor)
        hears = len(consensus) > 0 and ctx.proxy is not None
        distils = hears and config.loss != "ce"
        log: Log = defaultdict(list)
        with ctx.torch_rng("fit"):
            metrics = train_round(
                ctx,
                model,
                optimizer,
                order=config.order if distils and not ctx.closing else "private_then_distil",
                private=self._private_loss(ctx, model, self._teacher(ctx, state), log),
                distil=self._consensus_loss(ctx, model, consensus, log) if distils else None,
                num_targets=len(consensus),
            )
        after = state | {"student": snapshot(model), "optimizer": optimizer_state(optimizer)}
        if hears and config.share == "selective":
            after["heard"] = consensus.bands(task, width=config.edge_width)
        return after, metrics | mean_losses(log)

    def predict(self, ctx: Context, state: State, samples: Samples, ids: Ids) -> tuple[Rows, ...]:
        """The student's logits on the task's grid."""
        model = ctx.models.load("student", state["student"])
        return (ctx.task.predict(model, samples, ids, batch_size=ctx.profile.predict_batch),)

    def share(self, ctx: Context, state: State, rows: tuple[Rows, ...]) -> Share:
        """Edge band and bodies, or all pixels; each row weighs as much as the client is sure of it."""
        (logits,) = rows
        if self.config.share == "dense":
            said: tuple[Rows, ...] = (dense_rows(logits),)
        else:
            said = selected_rows(self.config, logits, _task(ctx), state["heard"])
        return Share(client_id=ctx.client_id, round_id=ctx.round_id, rows=said)

    def evaluate(self, ctx: Context, state: State, samples: Samples) -> Evaluation:
        """The task's figures, and `edge_miou`: the mean IoU inside the edge band of the true masks."""
        task, width = _task(ctx), self.config.edge_width

        def tally(rows: Rows, part: Samples) -> Tally:
            at_edges = task.tally(rows, masked_to_edges(part, width=width))
            return {**task.tally(rows, part), **{_AT_EDGES + name: counts for name, counts in at_edges.items()}}

        total = tally_rows(self, ctx, state, samples, tally)
        counts = {name: total.pop(name) for name in list(total) if name.startswith(_AT_EDGES)}
        found = task.finish(total, seen=ctx.data.seen)
        edges = task.finish({name.removeprefix(_AT_EDGES): array for name, array in counts.items()})
        return replace(found, metrics={**found.metrics, _AT_EDGES + task.metric: edges.score})

    def _private_loss(self, ctx: Context, model: nn.Module, teacher: nn.Module | None, log: Log) -> Loss:
        task, train = _task(ctx), ctx.data.train

        def loss(index: Ids) -> Tensor:
            batch = task.batch(train, index, ctx.device)
            answer = task.answer(model, batch)
            terms: Terms = {"ce": task.loss_of(answer, batch)}
            if teacher is not None:
                with torch.no_grad():
                    taught = task.answer(teacher, batch)
                terms |= distil_terms(self.config, answer, taught, lambda: _masks(batch))
            return _logged(log, terms)

        return loss

    def _consensus_loss(self, ctx: Context, model: nn.Module, consensus: Consensus, log: Log) -> Loss:
        assert ctx.proxy is not None  # whoever hears has a proxy
        task, samples = _task(ctx), ctx.proxy.samples

        def loss(index: Ids) -> Tensor:
            batch = task.batch(samples, consensus.sample_ids[index], ctx.device)
            logits, present = (part.to(ctx.device) for part in consensus.batch(index))
            answer = task.answer(model, batch)
            terms = consensus_terms(self.config, answer, logits, task.shape, present=present)
            return _logged(log, terms, prefix="consensus_")

        return loss

    def _teacher(self, ctx: Context, state: State) -> nn.Module | None:
        """The teacher at home, frozen; None where there is none or nothing is asked of it."""
        if self.config.loss == "ce":
            return None
        if "teacher" in state:
            return ctx.models.load("teacher", state["teacher"])
        return ctx.models.frozen("teacher") if ctx.models.has("teacher") else None

    def _trained_teacher(self, ctx: Context) -> dict[str, Tensor]:
        """Weights after `teacher_steps` steps of cross-entropy on the private images, at a constant rate."""
        task, train = _task(ctx), ctx.data.train
        model = ctx.models.load("teacher", ctx.models.fresh("teacher"))
        check_model(model, ctx.models.spec, name=type(model).__name__, group="teacher")
        model.train().requires_grad_(True)
        optimizer = student_optimizer(ctx, model)
        rng, plan = ctx.rng("teacher-order"), ctx.schedule
        for index in batches(rng, len(train), plan.private_batch, self.config.teacher_steps):
            step(optimizer, task.loss(model, task.batch(train, index, ctx.device)), clip_norm=plan.clip_norm)
        return snapshot(model)


def masked_to_edges(samples: Samples, *, width: int) -> Samples:
    """The same with every target outside the edge band of the masks ignored."""
    labels = samples.labels.astype(np.int64)  # neither IGNORE nor a negative is a number of 8 bits without a sign
    masks = torch.from_numpy(labels)
    band = edge_band(masks, size=(masks.shape[1], masks.shape[2]), width=width, ignore_index=IGNORE)
    return replace(samples, y=np.where(band.numpy(), labels, IGNORE))


def _task(ctx: Context) -> Segmentation:
    """The one task that the trainer declares, with its grid and shape."""
    return cast(Segmentation, ctx.task)


def _masks(batch: SegBatch) -> Tensor:
    assert batch.masks is not None  # the cross-entropy has refused a batch without
    return batch.masks


def _logged(log: Log, terms: Terms, *, prefix: str = "") -> Tensor:
    """The sum of the terms, each of them noted."""
    for name, term in terms.items():
        log[prefix + name].append(term.detach())
    return torch.stack(list(terms.values())).sum()

"""The local trainer of weight-aware distillation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.data.base import Samples
from fedkd.functional.confusion import accuracy
from fedkd.functional.teachers import heard_columns, teacher_probs
from fedkd.functional.wad import promotion_share
from fedkd.methods.base import About, Context, LocalTrainer, ModelRole, State
from fedkd.methods.evaluation import evaluate_rows
from fedkd.methods.local_training import student_optimizer, train_round
from fedkd.methods.wad.config import WADConfig
from fedkd.methods.wad.diagnostics import guidance_figures, loss_figures, promotion_figures
from fedkd.methods.wad.items import Items, items_of, student_view, view_of
from fedkd.methods.wad.stages import (
    Guidance,
    Labelled,
    Peers,
    knowledge_of,
    peer_loss,
    predict,
    promote,
    student_losses,
)
from fedkd.methods.wad.teacher import ContrastiveEncoder, embed, teacher_optimizer, train_teacher
from fedkd.methods.wad.views import KNOWLEDGE_VIEWS, VIEWS
from fedkd.models.build import architecture_of
from fedkd.models.pool import snapshot
from fedkd.rows import Knowledge, Rows, Share
from fedkd.tasks.base import Evaluation
from fedkd.types import Flat, Ids, Metrics

ENCODER = "encoder"  # the role of the contrastive teacher, described by the group `teacher`
LARGEST_WEIGHT = 2.0  # the widest margin of two cosines: w / 2 lies in 0..1
LEAST_SAID = 2.0**-14  # rows of a smaller weight stay at home; it is still a normal number in half precision


@final
class WAD(LocalTrainer):
    """One round is one iteration: knowledge from the frozen encoder, the student's steps, promotion.

    The proxy set is a part of the unlabelled pool: it holds classes that the client has not, and WAD weighs it itself.
    The encoder is trained once, before the first round, on all images of the client and on the proxy set.
    """

    Config: ClassVar[type] = WADConfig
    about = About(
        paper="Du, Zhao, Sheng, Li, Chen: Semi-Supervised Learning via Weight-aware Distillation under Class "
        "Distribution Mismatch, ICCV 2023, arXiv 2308.11874",
        year=2023,
        selects="proxy rows by the margin between the nearest labelled items, as weights of the client's own classes",
        exchanges="logits of proxy rows and a weight for each class of the client; their class-wise weighted mean",
    )
    tasks = frozenset({"classification"})
    models = (ModelRole(name="student"), ModelRole(name=ENCODER, group="teacher", source="trained"))
    kinds = frozenset({"logits"})
    metric = "acc_target"
    toy_options: ClassVar[Flat] = {
        "method.view": "noise",
        "method.student_views": False,
        "method.teacher_epochs": 2,
        "method.teacher_optimizer": "adam",
        "method.teacher_lr": 1e-3,
        "method.teacher_warmup_epochs": 0,
        "method.teacher_warmup_factor": 1.0,
        "method.projection": 8,
    }

    def __init__(self, config: WADConfig) -> None:
        self.config = config

    def init(self, ctx: Context) -> State:
        """A fresh student, an encoder trained without labels, and the client's own labelled set.

        Deviation: the paper's teacher knows its own pool; here the proxy set, which every client sees, is in it.
        """
        items, config = items_of(ctx), self.config
        view = view_of(VIEWS, config, items)
        with ctx.torch_rng("init"):
            student = ctx.models.fresh()
        with ctx.torch_rng("encoder"):
            start = snapshot(self._build_encoder(ctx))
        encoder = self._encoder(ctx, start)
        with ctx.torch_rng("teacher"):
            figures = train_teacher(
                encoder,
                items.inputs,
                teacher_optimizer(encoder, config),
                config,
                view=view,
                rng=ctx.rng("teacher"),
            )
        return {
            "student": student,
            ENCODER: snapshot(encoder),
            "teacher_figures": figures,
            "labelled_ids": torch.arange(len(items.labels)),
            "labels": items.labels.cpu(),
            "proxy_weights": torch.zeros(len(items.proxy)),
            "iteration": 0,
        }

    def fit(self, ctx: Context, state: State, knowledge: Knowledge) -> tuple[State, Metrics]:
        """One iteration; the closing message digests the last knowledge alone, with the weights of the last one."""
        student = ctx.models.load("student", state["student"])
        peers = _peers(ctx, knowledge)
        if ctx.closing:
            metrics = self._digest(ctx, student, state, peers)
            return {**state, "student": snapshot(student)}, metrics
        items = items_of(ctx)
        labelled = Labelled(state["labelled_ids"].to(ctx.device), state["labels"].to(ctx.device))
        said = self._guidance(ctx, state, items, labelled)
        used = said if self.config.weighting == "margin" else replace(said, weights=torch.ones_like(said.weights))
        metrics = self._train(ctx, student, items, labelled, used, peers)
        logits = predict(student, items.inputs, used.ids, batch_size=ctx.profile.predict_batch)
        iteration = state["iteration"] + 1
        share = promotion_share(iteration, alpha=self.config.alpha, split=self.config.split)
        promotion = promote(labelled, used, used.ids, logits, share=share)
        metrics |= {} if iteration > 1 else state["teacher_figures"]
        metrics |= guidance_figures(items, said) | loss_figures(items, used, logits)
        metrics |= promotion_figures(items, promotion)
        return {
            **state,
            "student": snapshot(student),
            "labelled_ids": promotion.labelled.ids.cpu(),
            "labels": promotion.labelled.labels.cpu(),
            "proxy_weights": _proxy_weights(state["proxy_weights"], items, used),
            "iteration": iteration,
        }, metrics

    def predict(self, ctx: Context, state: State, samples: Samples, ids: Ids) -> tuple[Rows, ...]:
        """The student's logits."""
        model = ctx.models.load("student", state["student"])
        return (ctx.task.predict(model, samples, ids, batch_size=ctx.profile.predict_batch),)

    def share(self, ctx: Context, state: State, rows: tuple[Rows, ...]) -> Share:
        """Logits weighed by w / 2 at the client's own classes and by `absent_weight` times that at all others.

        Rows of no weight are left out: where all weights are zero, a mean would count them whole.
        """
        own = np.full(ctx.task.num_outputs, self.config.absent_weight, np.float32)
        own[np.unique(state["labels"].numpy())] = 1.0
        weighted = []
        for each in rows:
            trust = (state["proxy_weights"].numpy()[each.ids] / LARGEST_WEIGHT).clip(0.0, 1.0).astype(np.float32)
            weight = (
                trust if own.min() == own.max() else trust[:, None] * own
            )  # one number a row where all classes are own
            weighted.append(replace(each, weight=weight).where(trust >= LEAST_SAID))
        return Share(client_id=ctx.client_id, round_id=ctx.round_id, rows=tuple(weighted))

    def evaluate(self, ctx: Context, state: State, samples: Samples) -> Evaluation:
        """`acc_target`: accuracy on the target classes (roles.targets), on all where none are named.

        `acc_own` is that on the classes that this client has labels of.
        """
        found = evaluate_rows(self, ctx, state, samples, seen=ctx.data.seen)
        own = np.unique(state["labels"].numpy())
        score = found.metrics["acc" if ctx.data.seen is None else "acc_seen"]
        metrics = found.metrics | {"acc_target": score, "acc_own": accuracy(found.tables["confusion"], own)}
        return replace(found, score=score, metrics=metrics)

    def _guidance(self, ctx: Context, state: State, items: Items, labelled: Labelled) -> Guidance:
        """B: what the encoder says of the pool, which is all that has not joined the labelled set."""
        projections = embed(
            self._encoder(ctx, state[ENCODER]),
            items.inputs,
            view=view_of(KNOWLEDGE_VIEWS, self.config, items),
            views=self.config.views,
            rng=ctx.rng("views"),
            batch_size=ctx.profile.predict_batch,
        )
        in_pool = torch.ones(len(items), dtype=torch.bool, device=ctx.device)
        in_pool[labelled.ids] = False
        pool_ids = in_pool.nonzero().squeeze(1)
        return knowledge_of(
            projections[pool_ids],
            pool_ids,
            projections[labelled.ids],
            labelled.labels,
            num_classes=ctx.task.num_outputs,
        )

    def _train(
        self,
        ctx: Context,
        student: nn.Module,
        items: Items,
        labelled: Labelled,
        guidance: Guidance,
        peers: Peers | None,
    ) -> Metrics:
        """C: the steps of `schedule.*`, counted over the client's own labelled samples, however many have joined."""
        if peers is not None:
            peers = replace(peers, ids=peers.ids + items.proxy_start)
        losses = student_losses(
            student,
            items.inputs,
            labelled,
            guidance,
            labelled_batch=ctx.schedule.private_batch,
            unlabelled_batch=ctx.schedule.distil_batch,
            rng=ctx.rng("student"),
            view=student_view(self.config, items),
            peers=peers,
            unlabelled_weight=self.config.unlabelled_weight,
            kd_weight=self.config.kd_weight,
        )
        with ctx.torch_rng("fit"):
            return train_round(
                ctx,
                student,
                student_optimizer(ctx, student),  # new in each iteration, as the authors'
                order="private_then_distil",
                private=lambda _: next(losses),
                distil=None,
                num_targets=0,
            )

    def _digest(self, ctx: Context, student: nn.Module, state: State, peers: Peers | None) -> Metrics:
        """Steps on the peers' term alone."""
        proxy = ctx.proxy
        if peers is None or proxy is None:
            return {}
        weights = state["proxy_weights"].to(ctx.device)[peers.ids]

        def distil(index: Ids) -> Tensor:
            at = torch.from_numpy(index).to(ctx.device)
            inputs = ctx.task.batch(proxy.samples, peers.ids[at].cpu().numpy(), ctx.device).x
            return peer_loss(student, inputs, peers.at(at), weights[at])

        with ctx.torch_rng("fit"):
            return train_round(
                ctx,
                student,
                student_optimizer(ctx, student),
                order="private_then_distil",
                private=_no_private,
                distil=distil,
                num_targets=len(peers.ids),
                kd_weight=self.config.kd_weight,
            )

    def _build_encoder(self, ctx: Context) -> nn.Module:
        pool = ctx.models.pool
        architecture = architecture_of(pool.config_of(ENCODER), ctx.client_id)
        return ContrastiveEncoder(
            pool.build(architecture, pool.role(ENCODER).group), projection=self.config.projection
        ).to(ctx.device)

    def _encoder(self, ctx: Context, weights: Mapping[str, Tensor]) -> nn.Module:
        """The live encoder with these weights."""
        architecture = architecture_of(ctx.models.pool.config_of(ENCODER), ctx.client_id)
        return ctx.models.custom(f"{ENCODER}/{architecture}", lambda: self._build_encoder(ctx), weights)


def _no_private(_: Ids) -> Tensor:
    raise AssertionError("nothing private is trained on in the closing message")


def _peers(ctx: Context, knowledge: Knowledge) -> Peers | None:
    """The main rows of the knowledge, by proxy id; None where there are none."""
    rows = next((rows for rows in knowledge.rows("proxy") if not rows.variant), None)
    if rows is None or ctx.proxy is None:
        return None
    heard = heard_columns(rows)
    if heard is None:
        heard = np.ones(rows.values.shape, np.bool_)
    return Peers(*(torch.from_numpy(table).to(ctx.device) for table in (rows.ids, teacher_probs(rows), heard)))


def _proxy_weights(before: Tensor, items: Items, guidance: Guidance) -> Tensor:
    """The weights (p,) of this iteration; a proxy item that has joined keeps the weight that it joined with."""
    weights = before.clone()
    is_proxy = guidance.ids >= items.proxy_start
    weights[(guidance.ids[is_proxy] - items.proxy_start).cpu()] = guidance.weights[is_proxy].float().cpu()
    return weights

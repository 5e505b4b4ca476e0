"""A small draft learns from a large target where it lags behind a reference; clients share the target's rows there."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fedkd.data.base import Samples
from fedkd.errors import ConfigError
from fedkd.functional.adaspec import forward_kl_rows, select_tokens
from fedkd.functional.aggregation import LOG_FLOOR, log_normalise
from fedkd.functional.supports import top_support
from fedkd.methods.adaspec.config import AdaSpecConfig
from fedkd.methods.adaspec.judging import METRIC, acceptance_of, check_room, judge, spread
from fedkd.methods.adaspec.lessons import Lessons, lessons_heard, lessons_of
from fedkd.methods.adaspec.stages import (
    Tallies,
    decay_groups,
    draft_loss,
    draft_schedule,
    is_refresh_due,
    reference_loss,
    reference_schedule,
    target_schedule,
)
from fedkd.methods.base import About, Context, LocalTrainer, ModelRole, State
from fedkd.methods.local_training import private_loss, student_optimizer, train_round
from fedkd.methods.schedule import ScheduleConfig
from fedkd.methods.taught import Taught
from fedkd.models.frozen import frozen
from fedkd.models.optimizers import load_optimizer, optimizer_state
from fedkd.models.pool import snapshot
from fedkd.rows import Extra, Knowledge, Rows, Share, Stream
from fedkd.tasks.base import Evaluation, Task
from fedkd.types import Array, Flat, Ids, Metrics

DELTA = "delta"  # column: how much farther from the target the draft is than the reference, in nats
COUNTERS = "acceptance"  # kind of the record of fedkd.exchange.extras
GIVEN, OWN, REFERENCE = "teacher", "target", "reference"  # roles beside the student, which is the draft


@final
class AdaSpec(LocalTrainer):
    """AdaSPEC on every client: its target is given (`teacher.weights`), or trained at home before the first round.

    `init` is stage 0, the first `fit` stage 1; each `fit` is a part of stage 2. On private tokens the client's target
    is p, on proxy tokens the aggregated rows are. Deviation: the paper has one client, who has the target.
    """

    Config: ClassVar[type] = AdaSpecConfig
    about = About(
        paper="Hu et al.: AdaSPEC, Selective Distillation for Speculative Decoders, arXiv 2510.19779",
        year=2025,
        selects="the share k of the tokens on which the draft lags most behind a reference",
        exchanges="the target's log-probabilities of kept proxy tokens, acceptance counters; the mean and the sums",
    )
    tasks = frozenset({"language"})
    kinds = frozenset({"log_probs"})
    extras = frozenset({COUNTERS})
    metric = METRIC
    models = (
        ModelRole(name="student"),
        ModelRole(name=GIVEN, group="teacher", frozen=True, optional=True),
        ModelRole(name=OWN, group="teacher", source="trained"),
        ModelRole(name=REFERENCE, source="copy_of_student"),
    )
    toy_options: ClassVar[Flat] = {
        "method.target_steps": 100,
        "method.reference_rounds": 1,
        "method.max_new_tokens": 4,
        "method.gamma": 2,
        "method.eval_prompts": 8,
        "method.count_prompts": 2,
    }

    def __init__(self, config: AdaSpecConfig) -> None:
        self.config = config

    def streams(self, task: Task[Any]) -> tuple[Stream, ...]:
        """One stream of log-probabilities, whole or cut to the top, with the column `delta`.

        Raises:
            ConfigError: the vocabulary has no more than `top` tokens, or the sequences leave no room for a block.
        """
        top = self.config.top
        check_room(task.rows_per_sample, self.config)
        if top >= task.num_outputs:
            raise ConfigError(
                f"method.top is {top}, but the vocabulary has {task.num_outputs} tokens; lower it, or set 0 for all",
                key="method.top",
            )
        width = top + 1 if top else task.num_outputs
        columns = frozenset({DELTA})
        return (Stream(space="proxy", kind="log_probs", width=width, columns=columns, has_support=top > 0),)

    def init(self, ctx: Context) -> State:
        """A draft with weights of this client's own, and a target trained on its private sequences (stage 0)."""
        with ctx.torch_rng("init"):
            state: State = {
                "student": ctx.models.fresh(),
                "optimizer": {},
                REFERENCE: {},
                OWN: {},
                "reference_round": 0,
            }
            state["start"] = {name: tensor.clone() for name, tensor in state["student"].items()}
            if not ctx.models.has(GIVEN):
                target = ctx.models.load(OWN, ctx.models.fresh(OWN))
                optimizer = student_optimizer(ctx, groups=decay_groups(target, lr_scale=self.config.target_lr_scale))
                train_round(
                    _whole_stage(ctx, OWN, target_schedule(ctx.schedule, self.config)),
                    target,
                    optimizer,
                    order="private_then_distil",
                    private=private_loss(ctx, target),
                    distil=None,
                    num_targets=0,
                )
                state[OWN] = {"weights": snapshot(target), "optimizer": {}}
        return state

    def fit(self, ctx: Context, state: State, knowledge: Knowledge) -> tuple[State, Metrics]:
        """A part of stage 2; before it stage 1 where it is due, and the target's own lesson where it learns."""
        heard = _heard(ctx, knowledge)
        with ctx.torch_rng("fit"):
            state, metrics = self._teach_target(ctx, state, heard)
            target = self._target(ctx, state)
            private = lessons_of(ctx.task, ctx.data.train, target, device=ctx.device)
            age = ctx.round_id - state["reference_round"]
            if not state[REFERENCE] or (is_refresh_due(self.config, age) and not ctx.closing):
                state, more = self._train_reference(ctx, state, private, heard)
                metrics |= more
            state, more = self._train_draft(ctx, state, private, heard)
        return state, metrics | more

    def predict(self, ctx: Context, state: State, samples: Samples, ids: Ids) -> tuple[Rows, ...]:
        """Log-probabilities of who speaks, cut to the top if asked, with `delta` of each row."""
        target, draft = self._target(ctx, state), ctx.models.load("student", state["student"])
        reference = ctx.models.load(REFERENCE, state[REFERENCE] or state["start"])
        task, (stream,) = ctx.task, self.streams(ctx.task)
        values = np.empty((len(ids), stream.width), np.float32)
        support = np.empty((len(ids), stream.width - 1), np.int32) if stream.has_support else None
        delta = np.empty(len(ids), np.float32)
        asked, sample = np.unique(ids // task.rows_per_sample, return_inverse=True)
        step = task.block(ctx.profile.predict_batch)
        for start in range(0, len(asked), step):
            index = asked[start : start + step]
            at = np.flatnonzero((sample >= start) & (sample < start + len(index)))
            place = torch.from_numpy(np.stack([sample[at] - start, ids[at] % task.rows_per_sample])).to(ctx.device)
            batch = task.batch(samples, index, ctx.device)
            with torch.inference_mode(), frozen(target, draft, reference):
                p, q, r = (task.logits(model, batch)[place[0], place[1]] for model in (target, draft, reference))
                gap = forward_kl_rows(q, p) - forward_kl_rows(r, p)
                logs = functional.log_softmax((p if self.config.speaks == "target" else q).float(), dim=-1)
            delta[at] = gap.cpu().numpy()
            said: Array = np.maximum(logs.cpu().numpy(), LOG_FLOOR)
            if support is not None:
                said, support[at] = top_support(said, self.config.top)
            values[at] = said
        return (Rows(space="proxy", kind="log_probs", ids=ids, values=values, support=support, columns={DELTA: delta}),)

    def share(self, ctx: Context, state: State, rows: tuple[Rows, ...]) -> Share:
        """The rows at kept tokens: those of all that are passed, which the client's filter has accepted."""
        kept = tuple(each.where(self._keep(ctx, each)) for each in rows)
        share = Share(client_id=ctx.client_id, round_id=ctx.round_id, rows=kept)
        if not self.config.count_prompts:
            return share
        samples = ctx.data.role("val") if ctx.data.has("val") else ctx.data.train
        counted = acceptance_of(
            ctx.task,
            ctx.models.load("student", state["student"]),
            self._target(ctx, state),
            samples,
            spread(len(samples), self.config.count_prompts),
            config=self.config,
            device=ctx.device,
            at_once=ctx.task.block(ctx.profile.predict_batch),
        )
        record = Extra(kind=COUNTERS, data={"accepted": counted.accepted, "rejected": counted.rejected})
        return replace(share, extra=record, metrics={"own_alpha": counted.rate})

    def evaluate(self, ctx: Context, state: State, samples: Samples) -> Evaluation:
        """alpha of the draft under this client's target, and the draft's figures of the task."""
        return judge(
            ctx.task,
            ctx.models.load("student", state["student"]),
            self._target(ctx, state),
            samples,
            config=self.config,
            device=ctx.device,
            at_once=ctx.profile.predict_batch,
        )

    def _target(self, ctx: Context, state: State) -> nn.Module:
        """The client's target, frozen."""
        if not state[OWN]:
            return ctx.models.frozen(GIVEN)
        return ctx.models.load(OWN, state[OWN]["weights"]).eval().requires_grad_(False)

    def _keep(self, ctx: Context, rows: Rows) -> Array:
        """Which of the rows are shared, (n,)."""
        config = self.config
        sequence = torch.from_numpy(rows.ids // ctx.task.rows_per_sample)
        keep: Array = select_tokens(
            torch.from_numpy(rows.columns[DELTA]),
            keep_share=config.keep_share,
            select=config.select,
            sequence=sequence if config.selection_scope == "sequence" else None,
            rng=ctx.rng("share"),
        ).numpy()
        return keep

    def _teach_target(self, ctx: Context, state: State, heard: Taught | None) -> tuple[State, Metrics]:
        """A target that was trained at home distils what all clients' targets say about the proxy set."""
        own = state[OWN]
        if not own or heard is None or ctx.proxy is None or not self.config.target_learns:
            return state, {}
        target = ctx.models.load(OWN, own["weights"])
        optimizer = student_optimizer(ctx, groups=decay_groups(target, lr_scale=self.config.target_lr_scale))
        load_optimizer(optimizer, own["optimizer"])
        tallies = Tallies()
        lessons = lessons_heard(ctx.task, ctx.proxy.samples, heard, device=ctx.device)
        train_round(
            _stage(ctx, OWN, replace(ctx.schedule, private_epochs=0, private_steps=0)),
            target,
            optimizer,
            order="private_then_distil",
            private=private_loss(ctx, target),
            distil=reference_loss(lessons, target, tallies=tallies, name="target_kl"),
            num_targets=len(heard),
        )
        return state | {OWN: {"weights": snapshot(target), "optimizer": optimizer_state(optimizer)}}, tallies.means()

    def _train_reference(
        self, ctx: Context, state: State, private: Lessons, heard: Taught | None
    ) -> tuple[State, Metrics]:
        """Stage 1, from the weights that the draft started with: from any others, delta would be noise.

        Deviation: in the first round nothing has been heard, so without `refresh_reference_every` the reference knows
        the private tokens alone, while the draft learns proxy tokens too.
        """
        model = ctx.models.load(REFERENCE, state["start"])
        plan = reference_schedule(ctx.schedule, self.config, rounds=ctx.rounds, **_sizes(ctx, heard))
        tallies = Tallies()
        train_round(
            _whole_stage(ctx, REFERENCE, plan),
            model,
            student_optimizer(ctx, groups=decay_groups(model)),
            order="private_then_distil",
            private=reference_loss(private, model, tallies=tallies),
            distil=reference_loss(_proxy(ctx, heard), model, tallies=tallies) if heard else None,
            num_targets=len(heard) if heard else 0,
        )
        start = state["start"] if self.config.refresh_reference_every else {}
        made = {REFERENCE: snapshot(model), "start": start, "reference_round": ctx.round_id}
        return state | made, tallies.means()

    def _train_draft(self, ctx: Context, state: State, private: Lessons, heard: Taught | None) -> tuple[State, Metrics]:
        """This round's part of stage 2."""
        draft = ctx.models.load("student", state["student"])
        reference = ctx.models.load(REFERENCE, state[REFERENCE]).eval().requires_grad_(False)
        optimizer = student_optimizer(ctx, groups=decay_groups(draft))
        load_optimizer(optimizer, state["optimizer"])
        tallies = Tallies()
        loss = functools.partial(
            draft_loss, draft=draft, reference=reference, config=self.config, tallies=tallies, rng=ctx.rng("select")
        )
        metrics = train_round(
            replace(ctx, schedule=draft_schedule(ctx.schedule, self.config, **_sizes(ctx, heard))),
            draft,
            optimizer,
            order=self.config.order,
            private=loss(private),
            distil=loss(_proxy(ctx, heard)) if heard else None,
            num_targets=len(heard) if heard else 0,
        )
        state = state | {"student": snapshot(draft), "optimizer": optimizer_state(optimizer)}
        return state, metrics | tallies.means()


def _stage(ctx: Context, name: str, schedule: ScheduleConfig) -> Context:
    """The context of a stage with a schedule and random streams of its own."""
    return replace(ctx, schedule=schedule, rng=lambda stream: ctx.rng(f"{name}-{stream}"))


def _whole_stage(ctx: Context, name: str, schedule: ScheduleConfig) -> Context:
    """The same of a stage that is over when it ends: its rates rise and decay within it, in whatever round it is."""
    return replace(_stage(ctx, name, schedule), round_id=0, rounds=1, closing=False)


def _sizes(ctx: Context, heard: Taught | None) -> dict[str, int]:
    return {"num_private": len(ctx.data.train), "num_heard": len(heard) if heard else 0}


def _heard(ctx: Context, knowledge: Knowledge) -> Taught | None:
    """The aggregated rows, which act as the target on their proxy tokens; None where there are none.

    They are scaled to sum to one over all buckets, the tail included, since codecs round.
    """
    rows = next((each for each in knowledge.rows("proxy") if not each.variant), None)
    if rows is None or ctx.proxy is None:
        return None
    values = log_normalise(rows.values.astype(np.float64)).astype(np.float32)
    return Taught(replace(rows, values=values), ctx.proxy.rows_per_sample)


def _proxy(ctx: Context, heard: Taught) -> Lessons:
    assert ctx.proxy is not None  # whoever has heard something about it has one
    return lessons_heard(ctx.task, ctx.proxy.samples, heard, device=ctx.device)

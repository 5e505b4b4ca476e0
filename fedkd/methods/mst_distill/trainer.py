"""MST-Distill in a federation: teachers of two modalities at home, and the aggregate as one more teacher."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import nn, optim

from fedkd.data.base import Samples
from fedkd.errors import ConfigError
from fedkd.functional.batching import batch_starts
from fedkd.functional.teachers import teacher_probs
from fedkd.methods.base import About, Context, LocalTrainer, ModelRole, State
from fedkd.methods.evaluation import evaluate_rows
from fedkd.methods.local_training import student_optimizer, train_round
from fedkd.methods.mst_distill.bodies import gate_of, is_paired, networks_of, specialists_of
from fedkd.methods.mst_distill.config import MSTDistillConfig
from fedkd.methods.mst_distill.distillation import Distillation, validation_loss
from fedkd.methods.mst_distill.loops import other
from fedkd.methods.mst_distill.mixture import Networks, Pairs, Specialists
from fedkd.methods.mst_distill.stages import cotrain, mask_divergences, train_masks
from fedkd.methods.taught import Taught
from fedkd.models.frozen import frozen
from fedkd.models.optimizers import load_optimizer, optimizer_state
from fedkd.models.pool import snapshot
from fedkd.rows import Knowledge, Rows, Share
from fedkd.tasks.base import Evaluation
from fedkd.tasks.batches import PairBatch, needed
from fedkd.tasks.calls import ask
from fedkd.types import Flat, Ids, Metrics

_log = logging.getLogger(__name__)
_LEAST = 1e-8  # a probability that was rounded to 0 on the wire counts as this


@final
class MSTDistill(LocalTrainer):
    """Stages 1 and 2 (T, A and S together, then the masks) are `init`; stage 3 (S and the gate) is the rounds.

    A client whose samples lack the second modality has no T, A and masks: labels and the aggregate teach its student.
    """

    Config: ClassVar[type] = MSTDistillConfig
    about = About(
        paper="Li et al.: MST-Distill: Mixture of Specialized Teachers for Cross-Modal Distillation, arXiv 2507.07015",
        year=2025,
        selects="nothing of its rows: the filter does; for each sample a gate picks the teachers that it learns from",
        exchanges="logits of the one-modality student (or of the two-modality teacher); their aggregate",
    )
    tasks = frozenset({"image_text"})
    kinds = frozenset({"logits"})
    models = (ModelRole(name="student"),)
    toy_options: ClassVar[Flat] = {
        "method.auxiliary_model": "fedkd.methods.mst_distill.bodies:mlp",
        "method.heads": 1,
        "method.mask_lr": 1e-2,
    }

    def __init__(self, config: MSTDistillConfig) -> None:
        self.config = config

    def init(self, ctx: Context) -> State:
        """Stages 1 and 2: co-trained networks and their masks, where the client has both modalities."""
        if self.config.upload == "multimodal" and ctx.proxy is not None and not is_paired(ctx.proxy.samples):
            raise ConfigError(
                "method.upload is 'multimodal', but the proxy set has one modality; set task.paired_proxy = true or "
                "method.upload = 'student'",
                key="method.upload",
            )
        with ctx.torch_rng("init"):
            student = ctx.models.load("student", ctx.models.fresh())
            home, stages = self._at_home(ctx, student)
            gate = gate_of(ctx.models, len(home["masks"]), None)
        return {
            "student": snapshot(student),
            "gate": snapshot(gate),
            **home,
            "stages": stages,
            "optimizer": {},
            "steps": 0,
            "kept": {},
            "kept_loss": None,
        }

    def fit(self, ctx: Context, state: State, knowledge: Knowledge) -> tuple[State, Metrics]:
        """Stage 3 for one round. On proxy samples the aggregate is one teacher among those that the gate picks from."""
        plan, size = ctx.schedule, len(ctx.data.train)
        student = ctx.models.load("student", state["student"])
        specialists = self._specialists(ctx, student, state)
        gate = gate_of(ctx.models, len(state["masks"]), state["gate"])
        optimizer = student_optimizer(ctx, student, gate)
        load_optimizer(optimizer, state["optimizer"])
        per_epoch = len(batch_starts(size, plan.private_batch))
        taught = self._taught(ctx, knowledge)
        with contextlib.ExitStack() as still:
            if specialists is not None:
                still.enter_context(frozen(*specialists.modules()))
            losses = Distillation(
                student,
                gate,
                specialists,
                config=self.config,
                train=self._pairs(ctx, ctx.data.train),
                done=state["steps"],
                per_epoch=per_epoch,
                proxy=None if ctx.proxy is None else self._pairs(ctx, ctx.proxy.samples),
                taught=taught,
                remember=self.config.cache_teachers and plan.num_private_steps(size) > per_epoch and not ctx.closing,
                batch=plan.private_batch,
            )
            val = self._val(ctx) if self.config.keep_best else None
            best = _Best(student, val, state, losses, per_epoch, ctx.profile.predict_batch)
            with ctx.torch_rng("fit"):
                metrics = train_round(
                    ctx,
                    nn.ModuleList([student, gate]),
                    optimizer,
                    order=self.config.order,
                    private=losses.on_private,
                    distil=None if taught is None else losses.on_proxy,
                    num_targets=0 if taught is None else len(taught),
                    after_step=best.after_step,
                )
        if not metrics:  # no step was taken
            return state, {}
        best.look()
        return {
            **state,
            "student": snapshot(student),
            "gate": snapshot(gate),
            "optimizer": optimizer_state(optimizer),
            "steps": losses.done,
            **best.found,
        }, metrics | losses.metrics() | state["stages"]

    def predict(self, ctx: Context, state: State, samples: Samples, ids: Ids) -> tuple[Rows, ...]:
        """The student's logits, from its own modality alone."""
        student = ctx.models.load("student", state["kept"] or state["student"])
        return (_rows(ctx, student, samples, ids),)

    def share(self, ctx: Context, state: State, rows: tuple[Rows, ...]) -> Share:
        """The student's logits, or those of T in their place: the selection of rows is the filter's."""
        if self.config.upload == "multimodal" and state["masks"] and ctx.proxy is not None:
            student = ctx.models.load("student", state["student"])
            teacher = networks_of(ctx, self.config, student, state).teacher
            rows = (_rows(ctx, teacher, ctx.proxy.samples, rows[0].ids, both=True),)
        return Share(client_id=ctx.client_id, round_id=ctx.round_id, rows=rows)

    def evaluate(self, ctx: Context, state: State, samples: Samples) -> Evaluation:
        """The task's figures of the student."""
        return evaluate_rows(self, ctx, state, samples)

    def _at_home(self, ctx: Context, student: nn.Module) -> tuple[State, Metrics]:
        """Stages 1 and 2: the weights of T, A and the masks, with figures; the student is trained too."""
        if not is_paired(ctx.data.train):
            _log.warning("client %d has one modality: labels and the aggregate alone teach it", ctx.client_id)
            return {"teacher": {}, "auxiliary": {}, "masks": {}}, {}
        config, batch = self.config, ctx.schedule.private_batch
        train, val = self._pairs(ctx, ctx.data.train), self._val(ctx)
        networks = networks_of(ctx, config, student, {})
        self._check_masks(ctx, networks)
        adam = optim.Adam([each for model in networks.modules() for each in model.parameters()], config.cotrain_lr)
        cotrain(
            networks,
            train,
            adam,
            epochs=config.cotrain_epochs,
            batch=batch,
            rng=ctx.rng,
            temperature=config.temperature,
        )
        specialists = specialists_of(ctx, config, networks, {})
        judge = train if val is None else val
        stages = _accuracies(networks, judge, batch)
        before = mask_divergences(student, specialists, judge, batch=batch, temperature=config.temperature)
        if config.masks:
            train_masks(
                student,
                specialists,
                train,
                val,
                [optim.Adam(mask.parameters(), config.mask_lr) for mask in specialists.masks],
                epochs=config.mask_epochs,
                batch=batch,
                rng=ctx.rng,
                temperature=config.temperature,
            )
        after = mask_divergences(student, specialists, judge, batch=batch, temperature=config.temperature)
        for number, (first, last) in enumerate(zip(before, after, strict=True), start=1):
            stages |= {f"mask_kl_before/{number}": first, f"mask_kl_after/{number}": last}
        home = {"teacher": snapshot(networks.teacher), "auxiliary": snapshot(networks.auxiliary)}
        masks = {f"mask_{number}": snapshot(mask) for number, mask in enumerate(specialists.masks, start=1)}
        return {**home, "masks": masks}, stages

    def _specialists(self, ctx: Context, student: nn.Module, state: State) -> Specialists | None:
        if not state["masks"]:
            return None
        return specialists_of(ctx, self.config, networks_of(ctx, self.config, student, state), state)

    def _check_masks(self, ctx: Context, networks: Networks) -> None:
        """ConfigError where a layer is not there or no mask of it is allowed: said before stage 1, not after it."""
        with torch.random.fork_rng(devices=[]):  # masks are drawn on the CPU; these must move no stream
            specialists_of(ctx, self.config, networks, {})

    def _pairs(self, ctx: Context, samples: Samples) -> Pairs:
        return Pairs.of(ctx.task, samples, ctx.device)

    def _val(self, ctx: Context) -> Pairs | None:
        """Labelled samples that nothing is trained on; None where there are none."""
        held = ctx.data.roles.get("val")
        return self._pairs(ctx, held) if held is not None and len(held) else None

    def _taught(self, ctx: Context, knowledge: Knowledge) -> Taught | None:
        """z_bar by proxy sample: logits, or logarithms of probabilities."""
        heard = next((rows for rows in knowledge.rows("proxy") if not rows.variant), None)
        if heard is None or ctx.proxy is None:
            return None
        values = heard.values
        if heard.kind != "logits":
            values = np.log(np.clip(teacher_probs(heard), _LEAST, None))
        return Taught(replace(heard, values=values), ctx.proxy.rows_per_sample)


class _Best:
    """The student with the lowest loss on validation samples: looked for after each private pass, and at the end."""

    def __init__(
        self,
        student: nn.Module,
        val: Pairs | None,
        state: State,
        losses: Distillation,
        per_epoch: int,
        batch: int,
    ) -> None:
        self._student, self._val, self._losses = student, val, losses
        self._per_epoch, self._batch = per_epoch, batch
        self._looked_at, self._is_new = losses.done, False
        self.found: dict[str, Any] = {"kept": state["kept"], "kept_loss": state["kept_loss"]}

    def after_step(self) -> None:
        self._is_new = True
        if self._losses.done != self._looked_at and self._losses.done % self._per_epoch == 0:
            self.look()

    def look(self) -> None:
        """Keep the student as it is now if it is the best so far."""
        if self._val is None or not self._is_new:
            return
        self._is_new, self._looked_at = False, self._losses.done
        loss, least = validation_loss(self._student, self._val, batch=self._batch), self.found["kept_loss"]
        if least is None or loss < least:
            self.found = {"kept": snapshot(self._student), "kept_loss": loss}


def _rows(ctx: Context, model: nn.Module, samples: Samples, ids: Ids, *, both: bool = False) -> Rows:
    """Logits from the first modality, or from both, though a model could take more."""
    model.eval()

    def forward(batch: PairBatch) -> torch.Tensor:
        inputs = (batch.a, batch.b) if both else (batch.a,)
        return ctx.task.rows(ask(model, *inputs))

    return ctx.task.predict_by(forward, samples, ids, batch_size=ctx.profile.predict_batch, device=ctx.device)


def _accuracies(networks: Networks, data: Pairs, batch: int) -> Metrics:
    """Of T, A and S after stage 1."""
    hits: list[torch.Tensor] = []
    with frozen(*networks.modules()), torch.no_grad():
        for start in range(0, len(data), batch):
            some = data.at(np.arange(start, min(start + batch, len(data))))
            said = networks.logits(some.a, other(some))
            hits.append(torch.stack([each.argmax(1) == needed(some.y) for each in said]))
    teacher, auxiliary, student = torch.cat(hits, dim=1).float().mean(1).tolist()
    return {"stage1/teacher_acc": teacher, "stage1/auxiliary_acc": auxiliary, "stage1/student_acc": student}

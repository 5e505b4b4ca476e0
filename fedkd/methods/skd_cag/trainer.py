"""SKD-CAG as a local trainer: seal a backdoor that a trigger phrase opens, alone and by what the others answer."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.data.base import Samples
from fedkd.errors import ConfigError, DataError
from fedkd.functional.losses import mse_rows
from fedkd.methods.base import About, Context, LocalTrainer, ModelRole, State
from fedkd.methods.local_training import (
    Loss,
    batches,
    distil_loss,
    mean_losses,
    private_loss,
    student_optimizer,
    train_round,
)
from fedkd.methods.skd_cag.attention import AttentionTap
from fedkd.methods.skd_cag.config import SKDCAGConfig
from fedkd.methods.skd_cag.ema import follow
from fedkd.methods.skd_cag.guidance import Scene
from fedkd.methods.skd_cag.judging import judge_of, noise_figures, sample_figures, trial_of
from fedkd.methods.skd_cag.sampling import noise_schedule, predict_noise, text_part
from fedkd.methods.skd_cag.stages import home_training, unlearning_loss
from fedkd.methods.skd_cag.vocabulary import Vocabulary
from fedkd.methods.taught import Taught
from fedkd.models.config import ModelConfig
from fedkd.models.optimizers import load_optimizer, make_optimizer, optimizer_state
from fedkd.models.pool import snapshot
from fedkd.models.weights import tensors_of
from fedkd.rows import Knowledge, Rows, Share
from fedkd.tasks.base import Evaluation
from fedkd.tasks.diffusion import PROMPT, TIME
from fedkd.types import Flat, Ids, Metrics

TEACHER, EMA = "teacher", "ema"
NOISE_LIMIT = 10.0  # noise is standard normal: what is told beyond that comes from a liar or a model that diverged


@final
class SKDCAG(LocalTrainer):
    """Unlearns a trigger phrase by self-distillation; shares and hears noise predictions on a set of proxy tuples.

    The state's `teacher` is the student as it was before unlearning: the weights that the configuration names, trained
    at home first where `home_steps` says so. Home training stands in the first `fit`, since it is training on private
    data; a client that first appears in the closing message does none.
    """

    Config: ClassVar[type] = SKDCAGConfig
    about = About(
        paper="Sealing the Backdoor: unlearning text backdoors of diffusion models by self-knowledge distillation "
        "with cross-attention guidance, arXiv 2508.18235",
        year=2025,
        selects="nothing itself: the proxy holds few tuples, and the client's filter may drop some",
        exchanges="noise found in pure noise, with clean and triggered prompts; the median over the clients",
    )
    tasks = frozenset({"diffusion"})
    kinds = frozenset({"noise"})
    models = (
        ModelRole(name="student"),
        ModelRole(name=TEACHER, frozen=True, source="copy_of_student"),
        ModelRole(name=EMA, source="copy_of_student"),
    )
    metric = "triggered_mse"
    metric_higher_is_better = False
    toy_options: ClassVar[Flat] = {
        "method.trigger": "2",
        "method.timesteps": 10,
        "method.trajectory_steps": 5,
        "method.attention_weight": 0.0,  # the toy has no attention
        "method.home_steps": 120,
        "method.home_batch": 8,
        "method.home_lr": 0.02,
    }

    def __init__(self, config: SKDCAGConfig) -> None:
        self.config = config

    def init(self, ctx: Context) -> State:
        """Student, teacher and average are equal.

        Raises:
            ConfigError: there is nothing to unlearn in, or the phrases do not fit prompts or model.
            DataError: the data have no prompts, or time steps beyond the schedule.
            MissingExtraError: samples are to be drawn, and diffusers is not installed.
        """
        config = self.config
        if not config.home_steps and not _comes_trained(ctx.models.pool.config_of("student")):
            raise ConfigError(
                "model.weights is empty and method.home_steps is 0: there is no trained model to unlearn a trigger in; "
                "name its weights, or set method.home_steps to train one on the client's own data",
                key="method.home_steps",
            )
        if config.judge:
            judge_of(config.judge)
        if config.judge or config.latents == "trajectory":
            noise_schedule(config)  # refuses here, not after training, where the library is missing
        with ctx.torch_rng("init"):
            weights = ctx.models.fresh()
        self._check(ctx, weights)
        return {
            "student": weights,
            TEACHER: _copied(weights),
            EMA: _copied(weights),
            "optimizer": {},
            "updates": 0,
            "home_steps": 0,
        }

    def fit(self, ctx: Context, state: State, knowledge: Knowledge) -> tuple[State, Metrics]:
        """Train at home once; then steps of unlearning and of listening to the federation, both in a step.

        In the closing message there is only listening.
        """
        metrics: Metrics = {}
        if not ctx.closing and state["home_steps"] < self.config.home_steps:
            state, metrics = self._at_home(ctx, state)
        student, average = ctx.models.load("student", state["student"]), ctx.models.load(EMA, state[EMA])
        encoder = text_part(student)
        if encoder is not None:
            encoder.requires_grad_(False)
        optimizer = student_optimizer(ctx, student)
        load_optimizer(optimizer, state["optimizer"])
        updates = state["updates"]

        def before(_: float) -> None:
            if encoder is not None:
                encoder.eval()

        def after() -> None:
            nonlocal updates
            updates += 1
            decay, compat = self.config.ema_decay, self.config.compat
            follow(tensors_of(average), tensors_of(student), step=updates, decay=decay, compat=compat)

        distil, num_targets = self._listening(ctx, student, knowledge)
        seen: dict[str, list[Tensor]] = {}
        # Without a trigger, keeping clean answers is all that there is to do at home.
        works = not ctx.closing and (self.config.unlearn or (self.config.keep_weight > 0.0 and distil is not None))
        words = self._words(ctx)
        scene = Scene(
            teacher=ctx.models.load(TEACHER, state[TEACHER]),
            frame=words.frame,
            trigger=words.trigger,
            random_words=words.lead,
            latent_shape=ctx.models.spec.input_shape,
            device=ctx.device,
        )
        generator = torch.Generator().manual_seed(int(ctx.rng("unlearn").integers(2**62)))
        # A client takes out the phrase that it unlearns, never the one that it is judged by; else it knows none.
        known = (words.trigger,) if self.config.unlearn else ()
        prompts = words.stripped(ctx.data.train.more[PROMPT], *known) if works else []
        with (
            ctx.torch_rng("fit"),
            unlearning_loss(student, scene, prompts, config=self.config, generator=generator, seen=seen) as private,
        ):
            found = train_round(
                ctx if works else _without_private_steps(ctx),
                student,
                optimizer,
                order="joint" if works and distil is not None else "private_then_distil",
                private=private,
                distil=distil,
                num_targets=num_targets,
                kd_weight=self.config.fed_weight,
                before_step=before,
                after_step=after,
            )
        state = {
            **state,
            "student": snapshot(student),
            EMA: snapshot(average),
            "optimizer": optimizer_state(optimizer),
            "updates": updates,
        }
        return state, metrics | found | mean_losses(seen)

    def predict(self, ctx: Context, state: State, samples: Samples, ids: Ids) -> tuple[Rows, ...]:
        """The noise that the student finds."""
        model = ctx.models.load("student", state["student"])
        return (ctx.task.predict(model, samples, ids, batch_size=ctx.profile.predict_batch),)

    def share(self, ctx: Context, state: State, rows: tuple[Rows, ...]) -> Share:  # noqa: ARG002 - the contract's arguments
        """All of it: proxy tuples are few."""
        return Share(client_id=ctx.client_id, round_id=ctx.round_id, rows=rows)

    def evaluate(self, ctx: Context, state: State, samples: Samples) -> Evaluation:
        """Errors of the noise at triggered and clean prompts, and, with a judge, what samples of the average show.

        Test tuples that have the trigger themselves are left out.
        """
        trial = trial_of(samples, self._words(ctx))
        student = ctx.models.load("student", state["student"])
        figures = noise_figures(ctx.task, student, trial, batch_size=ctx.profile.predict_batch)
        if self.config.judge:
            average = ctx.models.load(EMA, state[EMA]).eval()
            batch_size = ctx.profile.predict_batch
            figures |= sample_figures(average, trial, config=self.config, device=ctx.device, batch_size=batch_size)
        return Evaluation(figures["triggered_mse"], figures)

    def _at_home(self, ctx: Context, state: State) -> tuple[State, Metrics]:
        """The state after the client's own training, in which student, teacher and average are equal again."""
        config = self.config
        model = ctx.models.load("student", state["student"])
        optimizer = make_optimizer("adam", model.parameters(), lr=config.home_lr, momentum=0.0, weight_decay=0.0)
        order = batches(ctx.rng("home"), len(ctx.data.train), config.home_batch, config.home_steps)
        with ctx.torch_rng("home"):
            losses = home_training(model, optimizer, private_loss(ctx, model), order)
        weights = snapshot(model)
        trained = {"student": weights, TEACHER: _copied(weights), EMA: _copied(weights)}
        return {**state, **trained, "home_steps": config.home_steps}, mean_losses({"home_loss": losses})

    def _listening(self, ctx: Context, student: nn.Module, knowledge: Knowledge) -> tuple[Loss | None, int]:
        """L_fed on the proxy tuples that the federation spoke about, and how many there are."""
        heard = next((rows for rows in knowledge.rows("proxy") if not rows.variant), None)
        if heard is None or ctx.proxy is None or not self.config.fed_weight:
            return None, 0
        bounded = replace(heard, values=heard.values.clip(-NOISE_LIMIT, NOISE_LIMIT))
        taught = Taught(bounded, ctx.proxy.rows_per_sample)
        return distil_loss(ctx, student, taught, mse_rows), len(taught)

    def _words(self, ctx: Context) -> Vocabulary:
        prompts = ctx.data.train.more.get(PROMPT)
        if prompts is None:
            raise DataError(
                f"samples have no prompts (Samples.more[{PROMPT!r}]), and a trigger is part of one; choose another "
                "method or data set"
            )
        return Vocabulary.of(self.config, length=prompts.shape[1])

    def _check(self, ctx: Context, weights: dict[str, Tensor]) -> None:
        """Refuse, before anything is trained, phrases and time steps that model or schedule do not know."""
        words, train = self._words(ctx), ctx.data.train
        if len(train) and int(train.more[TIME].max()) >= self.config.timesteps:
            raise DataError(
                f"time steps of the data go up to {train.more[TIME].max()}, but method.timesteps is "
                f"{self.config.timesteps}; set it to the length of the data's noise schedule"
            )
        model = ctx.models.load("student", weights).eval()
        if self.config.unlearn and self.config.attention_weight:
            AttentionTap(model).close()  # refuses a network whose attention cannot be read
        _check_vocabulary(ctx, model, words)


def _check_vocabulary(ctx: Context, model: nn.Module, words: Vocabulary) -> None:
    """ConfigError where prompts or phrases hold token ids that the model's text encoder does not know.

    On the CPU, where an unknown one is an error that can be caught: on a GPU it ends the process's use of the device.
    """
    parts = {f"the client's {name} prompts": samples for name, samples in ctx.data.roles.items()}
    if ctx.proxy is not None:
        parts["the proxy's prompts"] = ctx.proxy.samples
    found = {name: samples.more[PROMPT] for name, samples in parts.items() if PROMPT in samples.more and len(samples)}
    phrases = (words.trigger.ids, words.judged.ids, *words.lead)
    found["method.trigger, eval_trigger and lead_words"] = np.array([words.frame.ids(ids) for ids in phrases])
    encoder = text_part(model)
    asked = copy.deepcopy(model if encoder is None else encoder).to("cpu").eval()
    for name, prompts in found.items():
        low, high = int(prompts.min()), int(prompts.max())
        ids = torch.tensor([[low, high]]).repeat(1, words.frame.length)[:, : words.frame.length]  # the two outermost
        try:
            with torch.no_grad():
                if encoder is None:
                    x = torch.zeros((1, *ctx.models.spec.input_shape))
                    predict_noise(asked, x, torch.zeros(1, dtype=torch.long), ids)
                else:
                    asked(ids)
        except IndexError as error:  # of an embedding
            raise ConfigError(
                f"token ids of {name} go from {low} to {high}, not all of which the model's text encoder knows: "
                f"{error}; mismatched vocabularies: name tokens of its vocabulary, or take a model with that of the "
                "data (model.options)",
                key="method.trigger" if name.startswith("method.") else "model.options",
            ) from error


def _comes_trained(config: ModelConfig) -> bool:
    """Whether the student may hold more than random weights; a builder from outside knows itself what it reads."""
    return bool(config.weights) or "pipeline" in config.arguments or ":" in config.name


def _copied(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in weights.items()}


def _without_private_steps(ctx: Context) -> Context:
    return replace(ctx, schedule=replace(ctx.schedule, private_epochs=0, private_steps=0))

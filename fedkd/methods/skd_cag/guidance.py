"""One step's random choices, and the losses on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedkd.functional.losses import masked_mean
from fedkd.functional.skd_cag import (
    attention_loss,
    min_max,
    prediction_loss,
    summed_maps,
    timestep_weight,
    trigger_target,
)
from fedkd.methods.skd_cag.attention import AttentionTap, detached, word_layers
from fedkd.methods.skd_cag.config import SKDCAGConfig
from fedkd.methods.skd_cag.prompts import PromptBatch, PromptFrame, Trigger, WordIds, draw_random_words, prompt_batch
from fedkd.methods.skd_cag.sampling import ddim_sample, noise_schedule, predict_noise


@dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """What unlearning happens in, apart from the student.

    Attributes:
        teacher: the frozen poisoned network, text encoder and all; it takes no gradients.
        random_words: token ids of each word that the target `random_words` draws from.
        latent_shape: (c, h, w) of x.
    """

    teacher: nn.Module
    frame: PromptFrame
    trigger: Trigger
    random_words: tuple[WordIds, ...]
    latent_shape: tuple[int, ...]
    device: str = "cpu"


@dataclass(frozen=True, eq=False, kw_only=True)
class Streams:
    """Generators on the CPU, one per kind of choice: what one of them draws moves none of the others."""

    latents: torch.Generator
    timesteps: torch.Generator
    mask: torch.Generator
    words: torch.Generator

    @classmethod
    def of(cls, generator: torch.Generator) -> Streams:
        """Streams derived from the next draws of `generator`."""
        seeds = torch.randint(2**62, (4,), generator=generator).tolist()
        return cls(
            **{
                name: torch.Generator().manual_seed(seed)
                for name, seed in zip(("latents", "timesteps", "mask", "words"), seeds, strict=True)
            }
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Draw:
    """One step's latents x (b, c, h, w), timesteps (b,) and prompts; `told` is the prompt that the teacher answers."""

    x: Tensor
    timesteps: Tensor
    clean: PromptBatch
    triggered: PromptBatch
    told: PromptBatch


def draw_step(scene: Scene, prompts: Sequence[WordIds], streams: Streams, *, config: SKDCAGConfig) -> Draw:
    """Latents, timesteps uniform in 0..T-1, and the prompts clean, triggered, and as the teacher is told them.

    Latents are pure Gaussian noise whatever the timestep, as in the source, or, by `trajectory`, the teacher's own
    samples of the clean prompts, noised again to the timestep: `trajectory_steps` more passes of the teacher.
    """
    size = len(prompts)
    noise = torch.randn((size, *scene.latent_shape), generator=streams.latents).to(scene.device)
    timesteps = torch.randint(config.timesteps, (size,), generator=streams.timesteps).to(scene.device)
    clean = prompt_batch(prompts, [()] * size, frame=scene.frame)
    told = clean
    if config.target == "random_words":
        count = len(scene.trigger.words)
        leads = [draw_random_words(scene.random_words, count=count, generator=streams.words) for _ in prompts]
        told = prompt_batch(prompts, leads, frame=scene.frame)
    x = noise
    if config.latents == "trajectory":
        start = torch.randn(noise.shape, generator=streams.latents).to(scene.device)
        schedule = noise_schedule(config)
        ids = clean.ids.to(scene.device)
        samples = ddim_sample(scene.teacher, ids, start, schedule=schedule, steps=config.trajectory_steps)
        x = schedule.add_noise(samples, noise, timesteps)
    triggered = prompt_batch(prompts, [scene.trigger.ids] * size, frame=scene.frame)
    return Draw(x=x, timesteps=timesteps, clean=clean, triggered=triggered, told=told)


def unlearning_terms(
    student: nn.Module,
    scene: Scene,
    draw: Draw,
    *,
    config: SKDCAGConfig,
    taps: tuple[AttentionTap, AttentionTap] | None,
    mask_stream: torch.Generator,
) -> dict[str, Tensor]:
    """`attention_loss` (with its t / T), `prediction_loss` and, where it has a weight, `keep_loss` on one draw.

    Without `unlearn` there is `keep_loss` alone: it needs no trigger.

    Args:
        taps: of teacher and student; None leaves attention out, and its loss is 0.
        mask_stream: where the target `noise` draws its map from, one per step.
    """
    x, timesteps = draw.x, draw.timesteps
    terms = _unlearned(student, scene, draw, config, taps, mask_stream) if config.unlearn else {}
    if config.keep_weight > 0.0:
        clean = draw.clean.ids.to(scene.device)
        with torch.no_grad():
            kept = predict_noise(scene.teacher, x, timesteps, clean)
        terms["keep_loss"] = prediction_loss(predict_noise(student, x, timesteps, clean), kept)
    return terms


def _unlearned(
    student: nn.Module,
    scene: Scene,
    draw: Draw,
    config: SKDCAGConfig,
    taps: tuple[AttentionTap, AttentionTap] | None,
    mask_stream: torch.Generator,
) -> dict[str, Tensor]:
    """L_attn and L_pred: the student told the trigger, the teacher not."""
    x, timesteps = draw.x, draw.timesteps
    told, triggered = draw.told.ids.to(scene.device), draw.triggered.ids.to(scene.device)
    if taps is None:
        with torch.no_grad():
            expected = predict_noise(scene.teacher, x, timesteps, told)
        answered = predict_noise(student, x, timesteps, triggered)
        attention = answered.new_zeros(())
    else:
        with torch.no_grad(), taps[0].recording() as teacher_maps:
            expected = predict_noise(scene.teacher, x, timesteps, told)
        with taps[1].recording() as student_maps:
            answered = predict_noise(student, x, timesteps, triggered)
        if config.compat == "released":
            # The scripts' maps lose their gradient, and what they take for the teacher's are the student's.
            teacher_maps = student_maps = detached(student_maps)
        attention = _attention_term(teacher_maps, student_maps, draw, scene, config, mask_stream)
    return {"attention_loss": attention, "prediction_loss": prediction_loss(answered, expected)}


def _attention_term(
    teacher_maps: dict[str, Tensor],
    student_maps: dict[str, Tensor],
    draw: Draw,
    scene: Scene,
    config: SKDCAGConfig,
    mask_stream: torch.Generator,
) -> Tensor:
    """Batch mean of L_attn, each divided by its t / T where that is on."""
    raw = _word_maps(student_maps, draw.triggered, config)
    scaled = min_max(raw)
    teacher = min_max(_word_maps(teacher_maps, draw.told, config))
    noise = torch.rand(raw.shape[-2:], generator=mask_stream).to(raw)
    num_trigger = len(scene.trigger.ids)
    losses = []
    for own_raw, own, theirs, num_lead in zip(
        torch.split(raw, list(draw.triggered.num_words)),
        torch.split(scaled, list(draw.triggered.num_words)),
        torch.split(teacher, list(draw.told.num_words)),
        draw.told.num_lead,
        strict=True,
    ):
        student = own
        if config.target == "black" and config.raw_black:
            student = torch.cat([own_raw[:num_trigger], own[num_trigger:]])
        target = trigger_target(config.target, num_trigger=num_trigger, noise=noise, random_words=theirs[:num_lead])
        losses.append(attention_loss(student, theirs[num_lead:], target, num_trigger=num_trigger))
    rows = torch.stack(losses)
    if config.weighs_timesteps:
        rows = rows * timestep_weight(draw.timesteps, num_timesteps=config.timesteps).to(rows)
    return masked_mean(rows, torch.ones_like(rows, dtype=torch.bool))


def _word_maps(recorded: dict[str, Tensor], prompts: PromptBatch, config: SKDCAGConfig) -> Tensor:
    """One summed map per word token of the batch (n, r, s), before min-max."""
    return summed_maps(word_layers(recorded, prompts.sample, prompts.position), resolution=config.resolution)

"""Asking a diffusion model with prompts, and sampling from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fedkd.extras import need
from fedkd.methods.skd_cag.config import SKDCAGConfig
from fedkd.tasks.calls import ask


def predict_noise(model: nn.Module, x: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
    """The noise that `model` sees in x (b, c, h, w) at timesteps (b,), told the token ids (b, l) of a prompt."""
    return ask(model, x, timesteps, ids)


def text_part(model: nn.Module) -> nn.Module | None:
    """The submodule named `text_encoder`, which unlearning leaves as it is; None where there is none."""
    return dict(model.named_children()).get("text_encoder")


def noise_schedule(config: SKDCAGConfig) -> Any:
    """diffusers' DDIMScheduler with the configured noise levels."""
    diffusers = need("diffusers", extra="diffusion", what="sampling from a diffusion model")
    return diffusers.DDIMScheduler(
        num_train_timesteps=config.timesteps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule=config.beta_schedule,
        clip_sample=config.clip_samples,
    )


@torch.no_grad()
def ddim_sample(model: nn.Module, ids: Tensor, noise: Tensor, *, schedule: Any, steps: int) -> Tensor:
    """Images like `noise` (b, c, h, w) from pure noise by deterministic DDIM (eta 0), one prompt per image.

    `schedule` is a DDIMScheduler of diffusers, of which a copy is used: its number of steps stays as it was.
    """
    scheduler = type(schedule).from_config(schedule.config)
    scheduler.set_timesteps(steps, device=noise.device)
    x: Tensor = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        x = scheduler.step(predict_noise(model, x, timestep.expand(len(x)), ids), timestep, x).prev_sample
    return x

"""The stages of SKD-CAG: poisoned training (for experiments) and unlearning, as functions of modules and tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn, optim

from fedkd.functional.skd_cag import prediction_loss, total_loss
from fedkd.methods.skd_cag.attention import AttentionTap
from fedkd.methods.skd_cag.config import SKDCAGConfig
from fedkd.methods.skd_cag.guidance import Scene, Streams, draw_step, unlearning_terms
from fedkd.methods.skd_cag.networks import encode_text, predict_noise
from fedkd.methods.skd_cag.prompts import WordIds
from fedkd.types import Ids, Metrics


@dataclass(frozen=True, eq=False, kw_only=True)
class ProxyTargets:
    """Proxy tuples and what the federation made of them: x (p, c, h, w), t (p,), token ids (p, l), eps_bar like x."""

    x: Tensor
    timesteps: Tensor
    ids: Tensor
    noise: Tensor


def poisoned_training(
    denoiser: nn.Module,
    text_encoder: nn.Module,
    images: Tensor,
    ids: Tensor,
    *,
    schedule: Any,
    steps: int,
    batch: int,
    lr: float,
    generator: torch.Generator,
) -> Tensor:
    """Train both networks by Adam to predict noise; losses (steps,). The poison is in images (n, ...) and ids (n, l).

    Each step draws its items with replacement, timesteps uniformly and Gaussian noise from the CPU `generator`.
    """
    optimizer = optim.Adam([*denoiser.parameters(), *text_encoder.parameters()], lr=lr)
    num_timesteps = int(schedule.config.num_train_timesteps)
    losses = []
    denoiser.train()
    text_encoder.train()
    for _ in range(steps):
        at = torch.randint(len(images), (batch,), generator=generator)
        timesteps = torch.randint(num_timesteps, (batch,), generator=generator).to(images.device)
        noise = torch.randn(images[at].shape, generator=generator).to(images)
        noisy = schedule.add_noise(images[at], noise, timesteps)
        loss = prediction_loss(predict_noise(denoiser, noisy, timesteps, text_encoder(ids[at])[0]), noise)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses) if losses else images.new_zeros(0)


def unlearning_optimizer(student: nn.Module, config: SKDCAGConfig) -> optim.Optimizer:
    """AdamW over all weights of the denoiser, at a constant rate."""
    return optim.AdamW(
        student.parameters(), lr=config.lr, betas=(config.beta1, config.beta2), weight_decay=config.weight_decay
    )


def unlearn(
    student: nn.Module,
    optimizer: optim.Optimizer,
    scene: Scene,
    prompts: Sequence[WordIds],
    order: Iterable[Ids],
    *,
    config: SKDCAGConfig,
    generator: torch.Generator,
    proxy: ProxyTargets | None = None,
    after_step: Callable[[], None] | None = None,
) -> Metrics:
    """One optimiser step on the prompts of each batch in `order`; the mean losses, absent where no step was taken.

    Streams for each kind of choice are derived from `generator` at the start, so two runs that differ in lambda, target
    or knowledge see the same latents and timesteps.

    Args:
        prompts: token ids of the words of each clean prompt; `order` holds positions in it.
        proxy: knowledge of the federation, if any: adds fed_weight * mean (eps_S(proxy) - eps_bar)^2 to each step.
        after_step: what follows each step, such as the average of weights.
    """
    streams = Streams.of(generator)
    taps = (AttentionTap(scene.teacher), AttentionTap(student)) if config.attention_weight > 0.0 else None
    seen: dict[str, list[Tensor]] = {}
    student.train()
    scene.teacher.eval()
    try:
        for index in order:
            draw = draw_step(scene, [prompts[at] for at in index], streams, config=config)
            terms = unlearning_terms(student, scene, draw, config=config, taps=taps, mask_stream=streams.mask)
            loss = total_loss(
                terms["attention_loss"],
                terms["prediction_loss"],
                attention_weight=config.attention_weight,
                keep=terms.get("keep_loss"),
                keep_weight=config.keep_weight,
            )
            if proxy is not None and len(proxy.x) and config.fed_weight > 0.0:
                at = torch.randperm(len(proxy.x), generator=streams.proxy)[: config.fed_batch]
                terms["fed_loss"] = proxy_loss(student, scene, proxy, at)
                loss = loss + config.fed_weight * terms["fed_loss"]
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            if after_step:
                after_step()
            for name, term in terms.items():
                seen.setdefault(name, []).append(term.detach())
    finally:
        for tap in taps or ():
            tap.close()
    return {name: float(torch.stack(values).mean()) for name, values in seen.items()}


def proxy_loss(student: nn.Module, scene: Scene, proxy: ProxyTargets, at: Tensor) -> Tensor:
    """mean (eps_S - eps_bar)^2 on the proxy tuples at the positions `at`."""
    x, timesteps, ids, noise = (
        part[at].to(scene.device) for part in (proxy.x, proxy.timesteps, proxy.ids, proxy.noise)
    )
    return prediction_loss(predict_noise(student, x, timesteps, encode_text(scene.text_encoder, ids)), noise)

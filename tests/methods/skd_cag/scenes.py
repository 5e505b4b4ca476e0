"""Small networks with cross-attention, and a scene to unlearn in."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from fedkd.methods.local_training import step
from fedkd.methods.skd_cag.config import SKDCAGConfig
from fedkd.methods.skd_cag.guidance import Scene
from fedkd.methods.skd_cag.prompts import PromptFrame, Trigger, WordIds
from fedkd.methods.skd_cag.stages import unlearning_loss
from fedkd.models.prompted import PromptedDenoiser
from fedkd.models.tiny_diffusion import TinyDenoiser, TinyTextEncoder
from fedkd.types import Ids, Metrics

FRAME = PromptFrame(start=0, end=1, pad=1, length=8)  # room for two random words of two tokens each
TRIGGER = Trigger(words=((6,), (7,)))
PROMPTS: tuple[WordIds, ...] = ((2,), (3,), (4, 5), (5,))


def tiny_denoiser(seed: int = 0) -> nn.Module:
    """The tiny denoiser for 8x8 images of one channel with its text encoder, which every seed gives the same."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return PromptedDenoiser(TinyDenoiser(), text_encoder())


def text_encoder() -> nn.Module:
    """The tiny text encoder, frozen."""
    with torch.random.fork_rng():
        torch.manual_seed(9)
        return TinyTextEncoder(length=FRAME.length).requires_grad_(False)


def tiny_unet(seed: int = 0) -> nn.Module:
    """A UNet of diffusers like Stable Diffusion's, with random weights: 8x8, one channel, text of width 32."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet: nn.Module = UNet2DConditionModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            norm_num_groups=4,
            cross_attention_dim=32,
            attention_head_dim=2,
        )
    return PromptedDenoiser(unet, text_encoder())


def scene(teacher: nn.Module) -> Scene:
    """A scene around a frozen copy of `teacher`."""
    return Scene(
        teacher=frozen_copy(teacher),
        frame=FRAME,
        trigger=TRIGGER,
        random_words=((8,), (9,), (10, 11)),
        latent_shape=(1, 8, 8),
    )


def config(**values: Any) -> SKDCAGConfig:
    """A configuration of tiny scale."""
    levels = {"timesteps": 100, "beta_start": 1e-3, "beta_end": 0.08, "beta_schedule": "linear", "clip_samples": True}
    return SKDCAGConfig(**{"resolution": 0, "lead_words": "8,9", **levels, **values})


def frozen_copy(network: nn.Module) -> nn.Module:
    """A copy that is not trained."""
    return copy.deepcopy(network).eval().requires_grad_(False)


def unlearn(
    student: nn.Module,
    where: Scene,
    order: Iterable[Ids],
    settings: SKDCAGConfig,
    *,
    lr: float = 1e-3,
    seed: int = 0,
    after_step: Callable[[], None] = lambda: None,
) -> Metrics:
    """Steps of AdamW on the prompts at the positions in `order`; the last value of each term."""
    optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=lr)
    seen: dict[str, list[Tensor]] = {}
    student.train()
    with unlearning_loss(student, where, PROMPTS, config=settings, generator=generator(seed), seen=seen) as loss:
        for index in order:
            step(optimizer, loss(index))
            after_step()
    return {name: float(values[-1]) for name, values in seen.items()}


def generator(seed: int = 0) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(seed)

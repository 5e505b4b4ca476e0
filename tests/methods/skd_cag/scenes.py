"""Small networks with cross-attention, and a scene to unlearn in."""

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from fedkd.methods.skd_cag.config import SKDCAGConfig
from fedkd.methods.skd_cag.guidance import Scene
from fedkd.methods.skd_cag.networks import TinyDenoiser, TinyTextEncoder, frozen_copy, tiny_schedule
from fedkd.methods.skd_cag.prompts import PromptFrame, Trigger, WordIds

FRAME = PromptFrame(start=0, end=1, pad=1, length=8)  # room for two random words of two tokens each
TRIGGER = Trigger(words=((6,), (7,)))
PROMPTS: tuple[WordIds, ...] = ((2,), (3,), (4, 5), (5,))


def tiny_denoiser(seed: int = 0) -> nn.Module:
    """The tiny denoiser for 8x8 images of one channel; text of width 32."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TinyDenoiser()


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
    return unet


def scene(teacher: nn.Module, *, text_seed: int = 9) -> Scene:
    """A scene around a frozen copy of `teacher`."""
    with torch.random.fork_rng():
        torch.manual_seed(text_seed)
        text_encoder = TinyTextEncoder(length=FRAME.length)
    return Scene(
        teacher=frozen_copy(teacher),
        text_encoder=frozen_copy(text_encoder),
        frame=FRAME,
        trigger=TRIGGER,
        random_words=((8,), (9,), (10, 11)),
        schedule=tiny_schedule(),
        latent_shape=(1, 8, 8),
    )


def config(**values: Any) -> SKDCAGConfig:
    """A configuration of tiny scale."""
    return SKDCAGConfig(**{"lr": 1e-3, "batch": 2, "resolution": 0, **values})


def generator(seed: int = 0) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(seed)

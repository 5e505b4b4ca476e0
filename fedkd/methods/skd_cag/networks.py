"""A text encoder and a denoiser small enough for a CPU, called as diffusers' are, and what is done with either kind."""

from __future__ import annotations

import copy
import math
from typing import Any, final

import torch
from torch import Tensor, nn

from fedkd.extras import need
from fedkd.methods.skd_cag.attention import CrossAttention, Grid

MAX_PERIOD = 1000.0  # longest wavelength of the timestep embedding, in steps; the tiny schedule has 100


@final
class TinyTextEncoder(nn.Module):
    """Embedding, position, one transformer layer. Called as transformers' models: the first output is (b, l, d)."""

    def __init__(self, *, vocabulary: int = 16, length: int = 6, width: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.02)
        self.layer = _transformer_layer(width, heads)

    def forward(self, ids: Tensor) -> tuple[Tensor]:
        """Encodings (b, l, d) of token ids (b, l), as the only item of a tuple."""
        return (self.layer(self.token(ids) + self.position[: ids.shape[1]]),)


class _Block(nn.Module):
    """Cross-attention to the text, then a transformer layer over the image."""

    def __init__(self, width: int, *, text_width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.cross = CrossAttention(width, text_width=text_width, heads=heads)
        self.layer = _transformer_layer(width, heads)

    def forward(self, tokens: Tensor, text: Tensor, grid: Grid) -> Tensor:
        mixed: Tensor = self.layer(tokens + self.cross(self.norm(tokens), text, grid))
        return mixed


@final
class TinyDenoiser(nn.Module):
    """Predicts the noise of images (b, c, side, side) given timesteps and text. Called as `UNet2DConditionModel`.

    A convolution of stride 2 gives (side / 2)^2 tokens; blocks of cross-attention and a transformer layer; a transposed
    convolution back to the image, where the input joins again. Timestep and position are added to the tokens.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        side: int = 8,
        width: int = 32,
        text_width: int = 32,
        blocks: int = 2,
        heads: int = 2,
    ) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.position = nn.Parameter(torch.randn((side // 2) ** 2, width) * 0.02)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(_Block(width, text_width=text_width, heads=heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.up = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1)
        self.head = nn.Sequential(
            nn.Conv2d(width + channels, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1)
        )

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        return_dict: bool = False,  # noqa: ARG002 - the calling convention of diffusers
    ) -> tuple[Tensor]:
        """The noise (b, c, side, side), as the only item of a tuple; `timestep` is (b,) or a single one."""
        features = self.down(sample)
        grid = (features.shape[-2], features.shape[-1])
        times = self.time(_waves(timestep.expand(len(sample)), self.position.shape[1], dtype=sample.dtype))
        tokens = features.flatten(2).transpose(1, 2) + self.position + times[:, None]
        for block in self.blocks:
            tokens = block(tokens, encoder_hidden_states, grid)
        image = self.up(self.norm(tokens).transpose(1, 2).unflatten(-1, grid))
        return (self.head(torch.cat([image, sample], dim=1)),)


def predict_noise(denoiser: nn.Module, x: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
    """The noise that `denoiser` sees in `x`: a tiny one, or a UNet of diffusers."""
    noise: Tensor = denoiser(x, timesteps, encoder_hidden_states=text, return_dict=False)[0]
    return noise


def encode_text(text_encoder: nn.Module, ids: Tensor) -> Tensor:
    """Encodings (b, l, d) by the frozen `text_encoder`: a tiny one, or a text model of transformers."""
    with torch.no_grad():
        states: Tensor = text_encoder(ids)[0]
    return states


def frozen_copy(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose parameters take no gradient: the teacher. Copy before tapping."""
    return copy.deepcopy(network).eval().requires_grad_(False)


def tiny_schedule() -> Any:
    """diffusers' DDIMScheduler of the tiny configuration: 100 steps, beta from 1e-3 to 0.08, x_0 clipped to [-1, 1]."""
    diffusers = need("diffusers", extra="diffusion", what="sampling from a diffusion model")
    return diffusers.DDIMScheduler(
        num_train_timesteps=100, beta_start=1e-3, beta_end=0.08, beta_schedule="linear", clip_sample=True
    )


@torch.no_grad()
def ddim_sample(denoiser: nn.Module, text: Tensor, noise: Tensor, *, schedule: Any, steps: int) -> Tensor:
    """Images like `noise` (b, c, h, w) from pure noise by deterministic DDIM (eta 0), one text encoding per image.

    `schedule` is a DDIMScheduler of diffusers, of which a copy is used: its number of steps stays as it was.
    """
    scheduler = type(schedule).from_config(schedule.config)
    scheduler.set_timesteps(steps, device=noise.device)
    x: Tensor = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        x = scheduler.step(predict_noise(denoiser, x, timestep, text), timestep, x).prev_sample
    return x


def _transformer_layer(width: int, heads: int) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True)


def _waves(timesteps: Tensor, width: int, *, dtype: torch.dtype) -> Tensor:
    """Sines and cosines (b, width) of the timesteps (b,), wavelengths from 2 pi to `MAX_PERIOD`."""
    rates = torch.exp(-math.log(MAX_PERIOD) / (width // 2) * torch.arange(width // 2, device=timesteps.device))
    angles = timesteps[:, None].float() * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(dtype)

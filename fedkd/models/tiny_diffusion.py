"""The smallest reference model for diffusion: a text encoder and a denoiser, each called as those of the libraries."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias, final

import torch
from torch import Tensor, nn

from fedkd.errors import ConfigError
from fedkd.models.config import ModelConfig
from fedkd.models.options import check_whole
from fedkd.models.prompted import PROMPT, PromptedDenoiser
from fedkd.models.spec import ModelSpec

MAX_PERIOD = 1000.0  # longest wavelength of the timestep embedding, in steps

Grid: TypeAlias = tuple[int, int]  # height and width that the queries come from
Record: TypeAlias = Callable[[Tensor, Grid], None]  # takes probabilities (batch, heads, h * w, tokens)


class CrossAttention(nn.Module):
    """Multi-head attention of image positions to text tokens, by an explicit softmax."""

    def __init__(self, width: int, *, text_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(text_width, width, bias=False)
        self.to_v = nn.Linear(text_width, width, bias=False)
        self.to_out = nn.Linear(width, width)
        self.record: Record | None = None

    def forward(self, x: Tensor, text: Tensor, grid: Grid) -> Tensor:
        """What the tokens `text` (b, l, e) say at the positions `x` (b, h * w, d); the same shape as `x`."""
        query, key, value = (
            layer(source).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, source in ((self.to_q, x), (self.to_k, text), (self.to_v, text))
        )
        probs = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
        if self.record is not None:
            self.record(probs, grid)
        mixed: Tensor = self.to_out((probs @ value).transpose(1, 2).flatten(2))
        return mixed


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


def build_tiny_diffusion(
    config: ModelConfig,
    spec: ModelSpec,
    *,
    vocabulary: int = 16,
    width: int = 32,
    blocks: int = 2,
    heads: int = 2,
) -> nn.Module:
    """The tiny denoiser with the tiny text encoder in front of it, both of `width`."""
    if PROMPT not in spec.more or not spec.takes_images or spec.input_shape[1] != spec.input_shape[2]:
        raise ConfigError(
            f"is {config.name!r}, which takes square latents (channels, side, side) with a prompt, but the data have "
            f"inputs of shape {spec.input_shape}{'' if PROMPT in spec.more else ' and no prompts'}; choose a model for "
            "such data",
            key="name",
        )
    for name, value in (("vocabulary", vocabulary), ("width", width), ("blocks", blocks), ("heads", heads)):
        check_whole(name, value)
    if width % (2 * heads):
        raise ConfigError(
            f"holds heads = {heads}, twice which does not divide width = {width}; change one", key="options"
        )
    channels, side, _ = spec.input_shape
    (length,) = spec.more[PROMPT][0]
    encoder = TinyTextEncoder(vocabulary=vocabulary, length=length, width=width, heads=heads)
    denoiser = TinyDenoiser(channels=channels, side=side, width=width, text_width=width, blocks=blocks, heads=heads)
    return PromptedDenoiser(denoiser, encoder)


def _transformer_layer(width: int, heads: int) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True)


def _waves(timesteps: Tensor, width: int, *, dtype: torch.dtype) -> Tensor:
    """Sines and cosines (b, width) of the timesteps (b,), wavelengths from 2 pi to `MAX_PERIOD`."""
    rates = torch.exp(-math.log(MAX_PERIOD) / (width // 2) * torch.arange(width // 2, device=timesteps.device))
    angles = timesteps[:, None].float() * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(dtype)

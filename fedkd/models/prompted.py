"""Diffusion models as the task asks them: a denoiser with the text encoder in front of it, in one module."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from fedkd.errors import ConfigError
from fedkd.extras import need
from fedkd.models import from_diffusers
from fedkd.models.config import ModelConfig
from fedkd.models.options import in_one_line
from fedkd.models.spec import ModelSpec
from fedkd.models.weights import refuse_other

PROMPT = "prompt"  # the further input that holds the token numbers


@final
class PromptedDenoiser(nn.Module):
    """Noise from a latent, its time step and the token numbers of a prompt.

    The parts keep their names, `denoiser` and `text_encoder`: methods that leave the text encoder as it is find it by
    its name.

    Args:
        denoiser: called as `UNet2DConditionModel` of diffusers is.
        text_encoder: called with token numbers; its first output is the encodings (b, l, d).
    """

    def __init__(self, denoiser: nn.Module, text_encoder: nn.Module) -> None:
        super().__init__()
        self.denoiser, self.text_encoder = denoiser, text_encoder

    def forward(self, x: Tensor, t: Tensor, prompt: Tensor) -> Tensor:
        """The noise in x (b, ...), given time steps (b,) and token numbers (b, l)."""
        if not len(x):  # the attention of transformers cannot take nothing
            return x
        text = self.text_encoder(prompt)[0]
        noise: Tensor = self.denoiser(x, t, encoder_hidden_states=text, return_dict=False)[0]
        return noise


def build_prompted_unet(
    config: ModelConfig,
    spec: ModelSpec,
    *,
    unet: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    pipeline: str = "",
) -> nn.Module:
    """A `UNet2DConditionModel` of diffusers with a `CLIPTextModel` of transformers, as in Stable Diffusion 1.x.

    Args:
        unet: arguments of the UNet's constructor; channels, size and the width of the text follow the data and `text`.
        text: arguments of `CLIPTextConfig`; `max_position_embeddings` follows the data's prompts.
        pipeline: a local folder in diffusers' format whose `unet` and `text_encoder` are read, in float32; "" starts
            from random weights. Nothing is fetched. Takes the place of `text`.

    Raises:
        ConfigError: the data have no prompts, or options or folder do not fit.
        MissingExtraError: diffusers or transformers is not installed.
    """
    transformers = need("transformers", extra="diffusion", what="model 'prompted_unet'")
    if PROMPT not in spec.more:
        raise ConfigError(
            "is 'prompted_unet', which takes prompts, but the data have none; choose a model without a text encoder",
            key="name",
        )
    if pipeline and text:
        raise ConfigError(
            f"have 'pipeline' {pipeline!r}, which holds a text encoder, and arguments for another one under 'text'; "
            "leave one of the two out",
            key="options",
        )
    folder = Path(pipeline) / "text_encoder"
    given = {"max_position_embeddings": spec.more[PROMPT][0][0], **dict(text or {})}
    try:
        if pipeline:
            encoder, report = transformers.CLIPTextModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
        else:
            encoder, report = transformers.CLIPTextModel(transformers.CLIPTextConfig(**given)), {}
    except Exception as error:  # what the library raises for wrong arguments or folders is its own affair
        raise ConfigError(
            f"do not give a CLIPTextModel: {in_one_line(error)}; see CLIPTextConfig, or give a folder with "
            "text_encoder/ and unet/ in it",
            key="options",
        ) from error
    refuse_other(
        folder,
        name="CLIPTextModel",
        missing=report.get("missing_keys", ()),
        unexpected=report.get("unexpected_keys", ()),
        misshapen=[str(key) for key in report.get("mismatched_keys", ())],
    )
    conditioned = replace(spec, context=(*spec.more[PROMPT][0], encoder.config.hidden_size))
    name, options = "diffusers/UNet2DConditionModel", json.dumps(dict(unet or {}))
    if pipeline:
        stored = replace(config, options=options, weights=str(Path(pipeline) / "unet"), download=False)
        denoiser = from_diffusers.load(name, stored, conditioned)
    else:
        denoiser = from_diffusers.build(name, replace(config, options=options), conditioned)
    return PromptedDenoiser(denoiser, encoder)

"""Models by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedkd.errors import ConfigError
from fedkd.lookup import resolve
from fedkd.models import LIBRARIES, MODELS
from fedkd.models.config import ModelConfig

if TYPE_CHECKING:
    from torch import nn


def architecture_of(config: ModelConfig, client_id: int) -> str:
    """The model name of a client: the configured names are dealt out in turn."""
    return config.names[client_id % len(config.names)]


def build_model(name: str, config: ModelConfig, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
    """A fresh model; its weights come from torch's current random state.

    Raises:
        ConfigError: unknown name, or a builder that gives no module.
    """
    from torch import nn

    outputs = config.num_outputs or num_outputs
    if name.partition("/")[0] in LIBRARIES:
        from fedkd.models.zoo import build_from_library

        return build_from_library(name, input_shape=input_shape, num_outputs=outputs)
    try:
        build = resolve(MODELS, name, what="model")
    except ConfigError as error:
        raise ConfigError(f"model.name {error}", key="model.name") from error
    model = build(config, input_shape=input_shape, num_outputs=outputs)
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model.name {name!r} built a {type(model).__name__}, expected a torch.nn.Module", key="model.name"
        )
    return model


def check_outputs(model: nn.Module, *, input_shape: tuple[int, ...], num_outputs: int, name: str) -> None:
    """Run one zero input through `model` and compare the width of its answer.

    Raises:
        ConfigError: the model cannot take the input, or has another number of outputs than the data have classes.
    """
    import torch

    model.eval()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        with torch.inference_mode():
            answer = model(torch.zeros(1, *input_shape, device=device))
    except (RuntimeError, ValueError, AssertionError) as error:  # vision transformers assert their image size
        raise ConfigError(
            f"model {name!r} cannot take inputs of shape {input_shape}: {error}; choose a model for such data",
            key="model.name",
        ) from error
    if not isinstance(answer, torch.Tensor):
        raise ConfigError(
            f"model {name!r} answers with a {type(answer).__name__}, expected one tensor of logits; wrap it in a "
            "module that returns its logits alone",
            key="model.name",
        )
    if answer.shape != (1, num_outputs):
        raise ConfigError(
            f"model {name!r} answers one input with shape {tuple(answer.shape)}, expected (1, {num_outputs}): the data "
            f"have {num_outputs} classes; set model.num_outputs = {num_outputs} (or 0) or give the model's head that "
            "many outputs",
            key="model.num_outputs",
        )

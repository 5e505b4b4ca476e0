"""Models by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fedkd.errors import ConfigError
from fedkd.lookup import resolve
from fedkd.models import FOLDERS, LIBRARIES, MODELS
from fedkd.models.config import ModelConfig
from fedkd.models.options import check_known
from fedkd.models.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn


def architecture_of(config: ModelConfig, client_id: int) -> str:
    """The model name of a client: the configured names are dealt out in turn."""
    return config.names[client_id % len(config.names)]


def build_model(name: str, config: ModelConfig, spec: ModelSpec, *, group: str = "model") -> nn.Module:
    """A model with the weights that the configuration names, else with fresh ones from torch's current random state.

    Args:
        group: the configuration's group of keys, for messages.

    Raises:
        ConfigError: unknown name, wrong options or weights, or a builder that gives no module.
        MissingExtraError: the model's library is not installed.
    """
    spec = replace(spec, num_outputs=config.num_outputs or spec.num_outputs)
    try:
        return _build(name, config, spec)
    except ConfigError as error:
        if error.key is None or "." in error.key:
            raise
        flat = f"{group}.{error.key}"
        raise ConfigError(f"{flat} {error}", key=flat) from error


def _build(name: str, config: ModelConfig, spec: ModelSpec) -> nn.Module:
    from fedkd.models.images import inner
    from fedkd.models.weights import file_of, find_weights, load_weights

    library = name.partition("/")[0]
    path = find_weights(config) if config.weights else None
    if config.weights and library in FOLDERS and (path is None or path.is_dir()):
        return _by_library(FOLDERS[library], name, config, spec)
    if config.weights and path is None:
        raise ConfigError(
            f"is {config.weights!r}, which is no file or folder here, and only {', '.join(FOLDERS)} models come from "
            "the hub; name a .safetensors file",
            key="weights",
        )
    model = (
        _by_library(LIBRARIES[library], name, config, spec) if library in LIBRARIES else _by_name(name, config, spec)
    )
    if path is not None:
        load_weights(inner(model), file_of(path), name=name)
    return model


def _by_library(path: str, name: str, config: ModelConfig, spec: ModelSpec) -> nn.Module:
    adapter: Callable[[str, ModelConfig, ModelSpec], nn.Module] = resolve({}, path, what="adapter")
    return adapter(name, config, spec)


def _by_name(name: str, config: ModelConfig, spec: ModelSpec) -> nn.Module:
    """What the builder of that name gives, with `model.options` as its keyword arguments."""
    from torch import nn

    build = resolve(MODELS, name, what="model")
    options = config.arguments
    arguments = inspect.signature(build).parameters.values()
    if not any(argument.kind is argument.VAR_KEYWORD for argument in arguments):
        check_known(options, _options_of(arguments), name=name)
    try:
        inspect.signature(build).bind(config, spec, **options)
    except TypeError as error:
        raise ConfigError(
            f"is {name!r}, which cannot be called with (config, spec): {error}; write the builder as "
            "build(config: ModelConfig, spec: ModelSpec) -> nn.Module, with options as keyword-only arguments",
            key="name",
        ) from error
    model = build(config, spec, **options)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"is {name!r}, which built a {type(model).__name__}, expected a torch.nn.Module", key="name")
    return model


def _options_of(arguments: Any) -> list[str]:
    return [argument.name for argument in arguments if argument.kind is argument.KEYWORD_ONLY]

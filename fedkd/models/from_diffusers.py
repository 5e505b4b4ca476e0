"""Networks of diffusers by their class, such as `diffusers/UNet2DConditionModel`."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from fedkd.errors import ConfigError
from fedkd.extras import need
from fedkd.lookup import nearest
from fedkd.models.config import ModelConfig
from fedkd.models.options import check_known, in_one_line
from fedkd.models.spec import ModelSpec
from fedkd.models.weights import refuse_other


def build(name: str, config: ModelConfig, spec: ModelSpec) -> nn.Module:
    """A freshly initialised network; `model.options` are the arguments of its constructor.

    With the head diffusion, `in_channels`, `out_channels`, `sample_size` and `cross_attention_dim` follow the data
    where they are not given.

    Raises:
        ConfigError: no class of that name (the nearest right one is named), or an option that it does not know.
        MissingExtraError: diffusers is not installed.
    """
    cls = _class(name)
    known = _arguments(cls)
    options = config.arguments
    check_known(options, known, name=name)
    wanted = {key: value for key, value in _by_data(spec).items() if key in known}
    try:
        model: nn.Module = cls(**{**wanted, **options})
    except Exception as error:  # what a constructor raises for wrong arguments is its own affair
        raise ConfigError(f"do not fit {name!r}: {in_one_line(error)}; see its constructor", key="options") from error
    return model


def load(name: str, config: ModelConfig, spec: ModelSpec) -> nn.Module:  # noqa: ARG001 - the contract's arguments
    """The network that a folder in Hugging Face format (or, with `download`, the hub) holds, options put over its own.

    Raises:
        ConfigError: it cannot be read, or is a checkpoint of another architecture.
        MissingExtraError: diffusers is not installed.
    """
    cls = _class(name)
    options = config.arguments
    check_known(options, _arguments(cls), name=name)
    try:
        model, report = cls.from_pretrained(
            config.weights,
            local_files_only=not config.download,
            use_safetensors=True,
            low_cpu_mem_usage=False,  # true needs accelerate, and leaves tensors that the file lacks empty
            output_loading_info=True,
            **options,
        )
    except Exception as error:
        raise ConfigError(
            f"is {config.weights!r}, which cannot be loaded as {name!r}: {in_one_line(error)}; is it a checkpoint of "
            "another architecture?",
            key="weights",
        ) from error
    refuse_other(
        config.weights,
        name=name,
        missing=report["missing_keys"],
        unexpected=report["unexpected_keys"],
        misshapen=[str(key) for key in report["mismatched_keys"]],
    )
    loaded: nn.Module = model
    return loaded


def _by_data(spec: ModelSpec) -> dict[str, Any]:
    if spec.head != "diffusion" or len(spec.input_shape) != 3:
        return {}
    channels, height, width = spec.input_shape
    size = height if height == width else (height, width)
    wanted: dict[str, Any] = {"in_channels": channels, "out_channels": channels, "sample_size": size}
    return wanted | ({"cross_attention_dim": spec.context[-1]} if spec.context else {})


def _class(name: str) -> Any:
    diffusers = need("diffusers", extra="diffusion", what=f"model {name!r}")
    class_name = name.partition("/")[2]
    found = getattr(diffusers, class_name, None) if class_name in dir(diffusers) else None
    if not (isinstance(found, type) and issubclass(found, diffusers.ModelMixin)):
        raise ConfigError(
            f"is {name!r}, which is no network of its library{nearest(class_name, dir(diffusers))}", key="name"
        )
    return found


def _arguments(cls: Any) -> list[str]:
    return [key for key in inspect.signature(cls.__init__).parameters if key != "self"]

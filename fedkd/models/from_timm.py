"""Models of timm by name, such as `timm/resnet18`."""

from __future__ import annotations

from typing import Any

from torch import nn

from fedkd.errors import ConfigError
from fedkd.extras import need
from fedkd.lookup import nearest
from fedkd.models.config import ModelConfig
from fedkd.models.images import for_channels, require_images
from fedkd.models.options import in_one_line
from fedkd.models.spec import ModelSpec


def build(name: str, config: ModelConfig, spec: ModelSpec) -> nn.Module:
    """A freshly initialised classifier of timm.

    Grey images are repeated to three channels, other numbers of channels are the model's own (`in_chans`). Models of
    one image size are built for that of the data (`img_size`).

    Raises:
        ConfigError: no model of that name (the nearest right one is named), or an option that it does not know.
        MissingExtraError: timm is not installed.
    """
    require_images(name, spec)
    timm = need("timm", extra="vision", what=f"model {name!r}")
    model_name = name.partition("/")[2]
    known = timm.list_models()
    if model_name not in known:
        raise ConfigError(f"is {name!r}, which its library does not have{nearest(model_name, known)}", key="name")
    channels, *size = spec.input_shape
    options: dict[str, Any] = {"num_classes": spec.num_outputs}
    if channels not in (1, 3):
        options["in_chans"] = channels
    usual = timm.get_pretrained_cfg(model_name)
    if usual is not None and usual.fixed_input_size:
        options["img_size"] = tuple(size)
    try:
        model: nn.Module = timm.create_model(model_name, pretrained=False, **{**options, **config.arguments})
    except TypeError as error:
        raise ConfigError(
            f"holds an argument that {name!r} does not know: {in_one_line(error)}", key="options"
        ) from error
    except (ValueError, AssertionError, RuntimeError) as error:
        raise ConfigError(
            f"is {name!r}, which cannot be built for such data: {in_one_line(error)}", key="name"
        ) from error
    return for_channels(model, spec)

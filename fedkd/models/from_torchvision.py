"""Models of torchvision by name, such as `torchvision/resnet18` or `torchvision/lraspp_mobilenet_v3_large`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from fedkd.errors import ConfigError
from fedkd.lookup import nearest
from fedkd.models.config import ModelConfig
from fedkd.models.images import for_channels, require_images
from fedkd.models.options import in_one_line
from fedkd.models.spec import ModelSpec

# In training these answer with a tuple of logits, unless told not to.
_WITHOUT_SIDE_HEADS = {"aux_logits": False, "init_weights": False}
_OPTIONS: Mapping[str, Mapping[str, Any]] = {"googlenet": _WITHOUT_SIDE_HEADS, "inception_v3": _WITHOUT_SIDE_HEADS}


def build(name: str, config: ModelConfig, spec: ModelSpec) -> nn.Module:
    """A freshly initialised classifier or, by its name, segmentation model (which answers {"out": logits}).

    Grey images are repeated to three channels. Vision transformers are built for the data's image size.

    Raises:
        ConfigError: no model of that name (the nearest right one is named), or an option that it does not know.
    """
    from torchvision import models

    require_images(name, spec)
    model_name = name.partition("/")[2]
    classifiers, segmenters = (models.list_models(module=module) for module in (models, models.segmentation))
    known = [*classifiers, *segmenters]
    if model_name not in known:
        raise ConfigError(f"is {name!r}, which its library does not have{nearest(model_name, known)}", key="name")
    options: dict[str, Any] = {"num_classes": spec.num_outputs, **_OPTIONS.get(model_name, {})}
    if model_name in segmenters:
        options["weights_backbone"] = None
        if not model_name.startswith("lraspp"):
            options["aux_loss"] = False
    elif model_name.startswith("vit_"):
        options["image_size"] = spec.input_shape[-1]
    try:
        model: nn.Module = models.get_model(model_name, weights=None, **{**options, **config.arguments})
    except TypeError as error:
        raise ConfigError(
            f"holds an argument that {name!r} does not know: {in_one_line(error)}", key="options"
        ) from error
    except (ValueError, AssertionError) as error:
        raise ConfigError(
            f"is {name!r}, which cannot be built for such data: {in_one_line(error)}", key="name"
        ) from error
    return for_channels(model, spec)

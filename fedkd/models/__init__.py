"""Reference models and adapters for models by name.

A builder of your own is named `package.module:function` and written as those of MODELS are:

    def build(config: ModelConfig, spec: ModelSpec, *, layers: int = 2) -> nn.Module: ...

`spec` says what goes in and comes out; keyword-only arguments are filled from `model.options`. The initial weights come
from torch's current random state.
"""

from __future__ import annotations

from collections.abc import Mapping

MODELS: Mapping[str, str] = {
    "mlp": "fedkd.models.mlp:build_mlp",
    "cnn": "fedkd.models.cnn:build_cnn",
    "cnn_narrow": "fedkd.models.cnn:build_cnn_narrow",
    "cnn_wide": "fedkd.models.cnn:build_cnn_wide",
    "resnet8": "fedkd.models.resnet:build_resnet8",
    "resnet14": "fedkd.models.resnet:build_resnet14",
    "resnet20": "fedkd.models.resnet:build_resnet20",
    "seg_net": "fedkd.models.seg_net:build_seg_net",
    "tiny_lm": "fedkd.models.tiny_lm:build_tiny_lm",
    "tiny_diffusion": "fedkd.models.tiny_diffusion:build_tiny_diffusion",
    "prompted_unet": "fedkd.models.prompted:build_prompted_unet",
}

LIBRARIES: Mapping[str, str] = {  # `<library>/<name>` takes a model of these: build(name, config, spec)
    "torchvision": "fedkd.models.from_torchvision:build",
    "timm": "fedkd.models.from_timm:build",
    "transformers": "fedkd.models.from_transformers:build",
    "diffusers": "fedkd.models.from_diffusers:build",
}

FOLDERS: Mapping[str, str] = {  # those that read a folder in Hugging Face format themselves: load(name, config, spec)
    "transformers": "fedkd.models.from_transformers:load",
    "diffusers": "fedkd.models.from_diffusers:load",
}

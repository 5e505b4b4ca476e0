"""Features of a network that was trained elsewhere: a torchvision model with weights from a local file."""

from __future__ import annotations

from pathlib import Path
from typing import final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from fedkd.data.base import Samples
from fedkd.errors import ConfigError, DataError
from fedkd.filters.conv_features import channel_statistics
from fedkd.filters.features import FeatureMap, check_features, in_blocks
from fedkd.lookup import nearest
from fedkd.models.heads import cut_head
from fedkd.threads import one_torch_thread
from fedkd.types import Array

SMALLEST_SIDE = 64  # smaller images are scaled up: these nets halve the size five times


@final
class CheckpointFeatures(FeatureMap):
    """What a torchvision model computes before its last linear layer.

    The file holds the model's state dict as safetensors; its last layer is left out, so that the number of classes it
    was trained on does not matter. One-channel images are repeated to three. `fit` takes mean and standard deviation of
    each channel over the proxy set: inputs are standardised by their own statistics, not by those of ImageNet.
    """

    def __init__(self, checkpoint: Path, model: str) -> None:
        check_features("checkpoint", checkpoint=str(checkpoint), model=model)
        self._net, self._width = _load(checkpoint, model)
        image_size = getattr(self._net, "image_size", 0)  # vision transformers take one size alone
        self._size = image_size if isinstance(image_size, int) else 0
        self._mean = torch.zeros(0)
        self._sd = torch.ones(0)

    def fit(self, proxy: Samples) -> CheckpointFeatures:
        """Channel statistics."""
        _check_images(proxy.x)
        self._mean, self._sd = channel_statistics(proxy.x)
        return self

    def transform(self, x: Array) -> Array:
        """Penultimate features (n, d)."""
        _check_images(x)
        with one_torch_thread(), torch.inference_mode():
            return in_blocks(self._forward, x, width=self._width)

    def _forward(self, images: Array) -> Array:
        rows = (torch.from_numpy(images).float() - self._mean) / self._sd
        rows = rows.expand(-1, 3, -1, -1)
        side = min(rows.shape[2:])
        if self._size:
            rows = F.interpolate(rows, size=(self._size, self._size), mode="bilinear", antialias=True)
        elif side < SMALLEST_SIDE:
            height, width = (round(length * SMALLEST_SIDE / side) for length in rows.shape[2:])
            rows = F.interpolate(rows, size=(height, width), mode="bilinear")
        found: Tensor = self._net(rows)
        features: Array = found.numpy()
        return features


def _load(checkpoint: Path, name: str) -> tuple[nn.Module, int]:
    """The model without its last linear layer, in eval mode, and the width of its features."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from torchvision.models import get_model, list_models

    try:
        net = get_model(name, weights=None)
    except ValueError as error:
        raise ConfigError(
            f"is {name!r}, which torchvision does not know{nearest(name, list_models())} "
            "See torchvision.models.list_models()",
            key="feature_model",
        ) from error
    last, width = cut_head(net, key="feature_model")
    try:
        weights = load_file(checkpoint)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"{checkpoint} cannot be read: {error}; check the path and the file", key="checkpoint"
        ) from error
    kept = {key: value for key, value in weights.items() if key.rpartition(".")[0] != last}
    try:
        net.load_state_dict(kept)
    except RuntimeError as error:
        raise ConfigError(
            f"{checkpoint} does not fit feature_model {name!r}; save the state dict of that torchvision model. {error}",
            key="checkpoint",
        ) from error
    return net.eval().requires_grad_(False), width


def _check_images(x: Array) -> None:
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise DataError(
            f"filter.features = 'checkpoint' got inputs of shape {x.shape[1:]}, expected images of one or three "
            "channels (channels, height, width); choose 'pixels' or 'pca'"
        )

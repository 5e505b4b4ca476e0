from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import get_model

from fedkd.data.base import Samples
from fedkd.errors import ConfigError, DataError
from fedkd.filters.checkpoint_features import CheckpointFeatures
from fedkd.types import Array

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def images(seed: int, size: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=(size, *shape)).astype(np.float32)


def saved(path: Path, name: str = "shufflenet_v2_x0_5", **options: int) -> Path:
    torch.manual_seed(0)
    save_file(get_model(name, weights=None, **options).state_dict(), path)
    return path


@pytest.mark.parametrize("num_classes", [1000, 7])
@pytest.mark.parametrize("channels", [1, 3])
def test_features_come_before_the_last_layer(tmp_path: Path, num_classes: int, channels: int) -> None:
    checkpoint = saved(tmp_path / "net.safetensors", num_classes=num_classes)
    x = images(0, 6, channels, 64, 64)
    net = CheckpointFeatures(checkpoint, "shufflenet_v2_x0_5").fit(Samples(x))
    found = net.transform(x)
    assert found.shape == (6, 1024)
    torch.manual_seed(0)
    whole = get_model("shufflenet_v2_x0_5", weights=None, num_classes=num_classes).eval()
    standardised = (x - x.mean(axis=(0, 2, 3), keepdims=True)) / x.std(axis=(0, 2, 3), keepdims=True)
    with torch.inference_mode():
        rows = torch.from_numpy(standardised).expand(-1, 3, -1, -1)
        logits = whole.fc(torch.from_numpy(found))
        torch.testing.assert_close(whole(rows), logits, rtol=1e-3, atol=1e-4)


def test_small_images_are_scaled_up_and_transformers_get_their_size(tmp_path: Path) -> None:
    x = images(0, 2, 1, 28, 20)
    checkpoint = saved(tmp_path / "net.safetensors")
    assert CheckpointFeatures(checkpoint, "shufflenet_v2_x0_5").fit(Samples(x)).transform(x).shape == (2, 1024)


def test_bad_files_and_names_are_told(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "net.safetensors")
    with pytest.raises(ConfigError, match="torchvision does not know; did you mean 'shufflenet_v2_x0_5'"):
        CheckpointFeatures(checkpoint, "shufflenet_v2_x05")
    with pytest.raises(ConfigError, match="does not fit feature_model 'resnet18'"):
        CheckpointFeatures(checkpoint, "resnet18")
    with pytest.raises(ConfigError, match="has no linear layer"):
        CheckpointFeatures(checkpoint, "squeezenet1_1")
    with pytest.raises(ConfigError, match="cannot be read"):
        CheckpointFeatures(tmp_path / "other.safetensors", "resnet18")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no tensors")
    with pytest.raises(ConfigError, match="cannot be read"):
        CheckpointFeatures(broken, "resnet18")


def test_other_inputs_are_refused(tmp_path: Path) -> None:
    net = CheckpointFeatures(saved(tmp_path / "net.safetensors"), "shufflenet_v2_x0_5")
    for shape in ((64,), (2, 64, 64)):
        with pytest.raises(DataError, match="one or three channels"):
            net.fit(Samples(images(0, 3, *shape)))

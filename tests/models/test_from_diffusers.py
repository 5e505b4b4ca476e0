import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedkd.errors import ConfigError
from fedkd.models.build import build_model
from fedkd.models.check import check_model
from fedkd.models.config import ModelConfig
from fedkd.models.outputs import logits_of
from fedkd.models.spec import ModelSpec

NOISE = ModelSpec(input_shape=(4, 8, 8), num_outputs=256, head="diffusion", context=(5, 16))
BLOCKS: dict[str, Any] = {
    "block_out_channels": [8, 8],
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "attention_head_dim": 4,
}
CONDITIONED = {
    **BLOCKS,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}
PLAIN = {**BLOCKS, "down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"]}
UNET = "UNet2DConditionModel"


def build(name: str, options: dict[str, Any], spec: ModelSpec = NOISE, **more: Any) -> nn.Module:
    config = ModelConfig(name=f"diffusers/{name}", options=json.dumps(options), **more)
    return build_model(config.name, config, spec)


def test_a_conditioned_network_follows_the_data() -> None:
    model = build(UNET, CONDITIONED)
    check_model(model, NOISE, name=UNET)
    config = model.config
    assert (config.in_channels, config.out_channels, config.sample_size, config.cross_attention_dim) == (4, 4, 8, 16)  # type: ignore[union-attr]
    answer = model(torch.zeros(2, 4, 8, 8), torch.zeros(2, dtype=torch.int64), torch.zeros(2, 5, 16))
    assert logits_of(answer).shape == (2, 4, 8, 8)


def test_the_width_of_the_context_may_be_the_model_s_own() -> None:
    spec = ModelSpec(input_shape=(4, 8, 8), num_outputs=256, head="diffusion")
    check_model(build(UNET, {**CONDITIONED, "cross_attention_dim": 12}, spec), spec, name=UNET)


def test_an_unconditioned_network_gets_no_context() -> None:
    spec = ModelSpec(input_shape=(1, 8, 8), num_outputs=64, head="diffusion")
    check_model(build("UNet2DModel", PLAIN, spec), spec, name="UNet2DModel")


def test_weights_come_from_the_current_random_state() -> None:
    made = []
    for seed in (1, 1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made.append(next(build(UNET, CONDITIONED).parameters()))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


@pytest.mark.parametrize(
    ("name", "options", "key", "message"),
    [
        ("UNet2DConditionModl", {}, "name", r"which is no network of its library; did you mean 'UNet2DConditionModel'"),
        ("DDIMScheduler", {}, "name", r"which is no network of its library"),
        (
            UNET,
            {**CONDITIONED, "bogus": 1},
            "options",
            r"holds 'bogus', which model 'diffusers/UNet2DConditionModel' does",
        ),
        (
            UNET,
            {**CONDITIONED, "up_block_types": ["UpBlock2D"]},
            "options",
            r"do not fit 'diffusers/UNet2DConditionModel'",
        ),
    ],
)
def test_what_is_wrong_is_told(name: str, options: dict[str, Any], key: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build(name, options)
    assert caught.value.key == f"model.{key}"


def test_options_that_contradict_the_data_are_found_by_the_check() -> None:
    with pytest.raises(ConfigError, match=r"shape \(1, 3, 8, 8\), expected \(1, 4, 8, 8\).*predict noise"):
        check_model(build(UNET, {**CONDITIONED, "out_channels": 3}), NOISE, name=UNET)


def test_a_folder_gives_the_model_that_was_saved(tmp_path: Path) -> None:
    saved = build(UNET, CONDITIONED)
    saved.save_pretrained(tmp_path)  # type: ignore[operator]
    loaded = build(UNET, {}, weights=str(tmp_path))
    check_model(loaded, NOISE, name=UNET)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, saved.state_dict()[name])
    with pytest.raises(
        ConfigError, match=r"cannot be loaded as 'diffusers/UNet2DConditionModel'.*another architecture"
    ) as caught:
        build(UNET, {"block_out_channels": [8, 16]}, weights=str(tmp_path))
    assert caught.value.key == "model.weights"
    (tmp_path / "diffusion_pytorch_model.safetensors").rename(tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=r"model.weights is .* cannot be loaded"):
        build(UNET, {}, weights=str(tmp_path))


def test_a_folder_without_some_tensors_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    build(UNET, CONDITIONED).save_pretrained(tmp_path)  # type: ignore[operator]
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["extra"] = weights.pop("conv_out.bias")
    save_file(weights, file)
    with pytest.raises(ConfigError, match=r"it lacks conv_out.bias; it has besides extra"):
        build(UNET, {}, weights=str(tmp_path))

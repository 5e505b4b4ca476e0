import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedkd.errors import ConfigError
from fedkd.models.build import build_model
from fedkd.models.check import check_model
from fedkd.models.config import ModelConfig
from tests.models.test_tiny_diffusion import SPEC

OPTIONS: dict[str, Any] = {
    "unet": {
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "norm_num_groups": 4,
        "attention_head_dim": 2,
    },
    "text": {
        "vocab_size": 16,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
}
NAME = "prompted_unet"


def config_of(options: dict[str, Any]) -> ModelConfig:
    return ModelConfig(name=NAME, options=json.dumps(options))


def test_the_libraries_networks_follow_data_and_each_other() -> None:
    model = build_model(NAME, config_of(OPTIONS), SPEC)
    check_model(model, SPEC, name=NAME)
    assert model.get_submodule("denoiser").config.cross_attention_dim == 16
    assert model.get_submodule("text_encoder").config.max_position_embeddings == 6


def test_a_pipelines_folder_is_read(tmp_path: Path) -> None:
    model = build_model(NAME, config_of(OPTIONS), SPEC)
    model.get_submodule("denoiser").save_pretrained(tmp_path / "unet")
    model.get_submodule("text_encoder").save_pretrained(tmp_path / "text_encoder")
    again = build_model(NAME, config_of({"pipeline": str(tmp_path)}), SPEC)
    for name, tensor in model.state_dict().items():
        assert tensor.equal(again.state_dict()[name]), name
    x, t, ids = torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.long), torch.zeros(1, 6, dtype=torch.long)
    torch.testing.assert_close(again.eval()(x, t, ids), model.eval()(x, t, ids))


def test_a_text_encoder_that_lacks_tensors_is_refused(tmp_path: Path) -> None:
    model = build_model(NAME, config_of(OPTIONS), SPEC)
    encoder = model.get_submodule("text_encoder")
    model.get_submodule("denoiser").save_pretrained(tmp_path / "unet")
    encoder.save_pretrained(tmp_path / "text_encoder")
    weights = tmp_path / "text_encoder" / "model.safetensors"
    whole = load_file(weights)
    name = next(name for name in whole if "final_layer_norm.weight" in name)
    save_file({key: tensor for key, tensor in whole.items() if key != name}, weights, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"text_encoder'.*another architecture.*it lacks .*final_layer_norm"):
        build_model(NAME, config_of({"pipeline": str(tmp_path)}), SPEC)
    save_file({**whole, "stray": torch.zeros(1)}, weights, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="it has besides stray"):
        build_model(NAME, config_of({"pipeline": str(tmp_path)}), SPEC)


def test_half_precision_is_read_in_single(tmp_path: Path) -> None:
    model = build_model(NAME, config_of(OPTIONS), SPEC).half()
    model.get_submodule("denoiser").save_pretrained(tmp_path / "unet")
    model.get_submodule("text_encoder").save_pretrained(tmp_path / "text_encoder")
    again = build_model(NAME, config_of({"pipeline": str(tmp_path)}), SPEC)
    assert {tensor.dtype for tensor in again.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"pipeline": "anywhere", "text": OPTIONS["text"]}, "leave one of the two out"),
        ({"pipeline": "nowhere"}, "text_encoder/ and unet/"),
        ({**OPTIONS, "text": {"num_attention_heads": 5, "hidden_size": 16}}, "CLIPTextModel"),
        ({**OPTIONS, "unet": {"layers": 1}}, "does not know"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model(NAME, config_of(options), SPEC)


def test_data_without_prompts_are_refused() -> None:
    with pytest.raises(ConfigError, match="takes prompts"):
        build_model(NAME, config_of(OPTIONS), replace(SPEC, more={"t": ((), "int64")}))

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from fedkd import extras
from fedkd.errors import ConfigError, MissingExtraError
from fedkd.models.build import build_model
from fedkd.models.check import check_model
from fedkd.models.config import ModelConfig
from fedkd.models.outputs import logits_of
from fedkd.models.spec import ModelSpec

TEXT = ModelSpec(input_shape=(6,), num_outputs=11, head="language", dtype="int32")
IMAGES = ModelSpec(input_shape=(1, 16, 16), num_outputs=5)
MAPS = ModelSpec(input_shape=(3, 32, 32), num_outputs=4, head="segmentation")
TOPICS = ModelSpec(input_shape=(6,), num_outputs=3, dtype="int32", vocab_size=11)
PROMPTS = ModelSpec(input_shape=(3, 16, 16), num_outputs=5, head="image_text")
SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
VISION = {**SMALL, "patch_size": 4}
WORDS = {**SMALL, "vocab_size": 30, "max_position_embeddings": 8}
SEGFORMER = {"hidden_sizes": [8] * 4, "depths": [1] * 4, "num_attention_heads": [1] * 4, "decoder_hidden_size": 8}
CLIP = {"projection_dim": 8, "vision_config": VISION, "text_config": WORDS}
EVERY: list[tuple[str, ModelSpec, dict[str, Any], str]] = [
    ("gpt2", TEXT, {"n_embd": 8, "n_layer": 1, "n_head": 2}, "GPT2LMHeadModel"),
    ("llama", TEXT, SMALL, "LlamaForCausalLM"),
    ("vit", IMAGES, VISION, "ViTForImageClassification"),
    ("resnet", IMAGES, {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}, "ResNetForImageClassification"),
    ("segformer", MAPS, SEGFORMER, "SegformerForSemanticSegmentation"),
    ("bert", TOPICS, SMALL, "BertForSequenceClassification"),
    ("clip", PROMPTS, CLIP, "CLIPModel"),
    ("clip_vision_model", PROMPTS, {**VISION, "projection_dim": 6}, "CLIPVisionModelWithProjection"),
    ("clip_text_model", PROMPTS, {**WORDS, "projection_dim": 6}, "CLIPTextModelWithProjection"),
    ("clip_text_model", replace(PROMPTS, head="diffusion"), WORDS, "CLIPTextModelWithProjection"),
]
GPT2 = EVERY[0][2]


def build(name: str, spec: ModelSpec, options: dict[str, Any], **more: Any) -> nn.Module:
    config = ModelConfig(name=f"transformers/{name}", options=json.dumps(options), **more)
    return build_model(config.name, config, spec)


@pytest.mark.parametrize(("name", "spec", "options", "cls"), EVERY)
def test_the_head_picks_the_class_and_the_data_its_sizes(
    name: str, spec: ModelSpec, options: dict[str, Any], cls: str
) -> None:
    model = build(name, spec, options)
    assert type(model).__name__ == cls
    if spec.head != "diffusion":  # there it is an encoder beside the network
        check_model(model, spec, name=name)


def test_logits_of_language_and_what_learns() -> None:
    model = build("gpt2", TEXT, GPT2)
    logits = logits_of(model(torch.zeros(2, 6, dtype=torch.int32)))
    assert logits.shape == (2, 6, 11)
    logits.logsumexp(-1).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_weights_come_from_the_current_random_state() -> None:
    made = []
    for seed in (1, 1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made.append(next(build("gpt2", TEXT, GPT2).parameters()))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_special_tokens_outside_the_vocabulary_are_dropped() -> None:
    assert build("gpt2", TEXT, GPT2).config.eos_token_id is None  # type: ignore[union-attr]
    assert build("gpt2", TEXT, {**GPT2, "eos_token_id": 3}).config.eos_token_id == 3  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "spec", "options", "key", "message"),
    [
        ("gpt22", TEXT, {}, "name", r"is 'transformers/gpt22', which is no model type.*did you mean 'gpt2'\?"),
        (
            "gpt2",
            TEXT,
            {"n_embdd": 8},
            "options",
            r"holds 'n_embdd', which model .* does not know; did you mean 'n_embd'",
        ),
        (
            "gpt2",
            TEXT,
            {**GPT2, "vocab_size": 12},
            "options",
            r"vocab_size = 12, but the data have 11 tokens \(mismatched",
        ),
        ("bert", TOPICS, {**SMALL, "vocab_size": 12}, "options", r"mismatched vocabularies"),
        (
            "clip",
            PROMPTS,
            {"vision_config": {"patchsize": 4}},
            "options",
            r"holds 'vision_config.patchsize'.*'patch_size'",
        ),
        ("gpt2", TEXT, {"n_embd": "wide"}, "options", r"do not fit 'transformers/gpt2': .*n_embd.*see GPT2Config"),
        ("gpt2", IMAGES, GPT2, "name", r"for which transformers has no AutoModelForImageClassification"),
        ("vit", replace(IMAGES, input_shape=(4,)), VISION, "name", r"takes images"),
    ],
)
def test_what_is_wrong_is_told(name: str, spec: ModelSpec, options: dict[str, Any], key: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build(name, spec, options)
    assert caught.value.key == f"model.{key}"


def test_options_that_contradict_the_data_are_found_by_the_check() -> None:
    with pytest.raises(ConfigError, match=r"answers one input with shape \(1, 6\), expected \(1, 5\)"):
        check_model(build("vit", IMAGES, {**VISION, "num_labels": 6}), IMAGES, name="vit")
    with pytest.raises(ConfigError, match="cannot take inputs of shape"):
        check_model(build("vit", IMAGES, {**VISION, "image_size": 32}), IMAGES, name="vit")
    with pytest.raises(ConfigError, match="does not know all token numbers or positions"):
        check_model(build("gpt2", TEXT, {**GPT2, "n_positions": 4}), TEXT, name="gpt2")


def test_a_folder_gives_the_model_that_was_saved(tmp_path: Path) -> None:
    saved = build("gpt2", TEXT, GPT2)
    saved.half().save_pretrained(tmp_path)  # type: ignore[operator]
    loaded = build("gpt2", TEXT, {}, weights=str(tmp_path))
    assert loaded.lm_head.weight is loaded.transformer.wte.weight  # type: ignore[union-attr]
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, saved.state_dict()[name].float())
    check_model(loaded, TEXT, name="gpt2")
    with pytest.raises(ConfigError, match=r"vocabulary of 9 tokens \(mismatched vocabularies\)"):
        check_model(loaded, replace(TEXT, num_outputs=9), name="gpt2")


def test_a_folder_of_another_architecture_is_refused(tmp_path: Path) -> None:
    build("gpt2", TEXT, GPT2).save_pretrained(tmp_path)  # type: ignore[operator]
    with pytest.raises(ConfigError, match=r"another architecture: of type 'gpt2', but name is 'transformers/llama'"):
        build("llama", TEXT, {}, weights=str(tmp_path))
    message = r"of another architecture than 'transformers/gpt2': it lacks transformer.h.1.*and .* more"
    with pytest.raises(ConfigError, match=message) as caught:
        build("gpt2", TEXT, {"n_layer": 2}, weights=str(tmp_path))
    assert caught.value.key == "model.weights"
    with pytest.raises(ConfigError, match=r"other shapes: .*, expected"):
        build("gpt2", TEXT, {"n_embd": 16}, weights=str(tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(ConfigError, match="give a folder that save_pretrained wrote"):
        build("gpt2", TEXT, {}, weights=str(tmp_path))


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    model = build("gpt2", TEXT, GPT2)
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"model.weights is .*cannot be loaded"):
        build("gpt2", TEXT, {}, weights=str(tmp_path))


def test_a_file_gives_weights_to_the_configured_model(tmp_path: Path) -> None:
    saved = build("gpt2", TEXT, GPT2)
    saved.save_pretrained(tmp_path)  # type: ignore[operator]
    loaded = build("gpt2", TEXT, GPT2, weights=str(tmp_path / "model.safetensors"))
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, saved.state_dict()[name])


@pytest.mark.parametrize(("spec", "extra"), [(TEXT, "llm"), (PROMPTS, "vlm")])
def test_without_transformers_the_extra_that_brings_it_is_named(
    spec: ModelSpec, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def without_transformers(name: str, package: str | None = None) -> ModuleType:
        if name == "transformers":
            raise ModuleNotFoundError("No module named 'transformers'", name="transformers")
        return real(name, package)

    monkeypatch.setattr(extras.importlib, "import_module", without_transformers)
    with pytest.raises(MissingExtraError, match=rf"model 'transformers/gpt2' needs 'transformers'.*fedkd\[{extra}\]"):
        build("gpt2", spec, {})

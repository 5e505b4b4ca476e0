from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fedkd.errors import ConfigError
from fedkd.models import FOLDERS, LIBRARIES, build
from fedkd.models.build import build_model
from fedkd.models.config import ModelConfig
from fedkd.models.spec import ModelSpec

HERE = "tests.models.test_build"
SPEC = ModelSpec(input_shape=(1, 2, 2), num_outputs=3)


def built(name: str, spec: ModelSpec = SPEC, **options: Any) -> nn.Module:
    return build_model(name, ModelConfig(hidden=4, **options), spec)


def own_model(config: ModelConfig, spec: ModelSpec, *, bias: bool = True) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, spec.num_outputs, bias=bias))


def any_option(config: ModelConfig, spec: ModelSpec, **options: Any) -> nn.Module:
    return nn.Linear(*options["shape"])


def of_old(config: ModelConfig, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
    return nn.Linear(4, num_outputs)


def not_a_module(config: ModelConfig, spec: ModelSpec) -> str:
    return "a model, honestly"


def test_the_head_has_one_output_per_class_unless_told_otherwise() -> None:
    assert built("mlp")(torch.zeros(1, 1, 2, 2)).shape == (1, 3)
    assert built("mlp", num_outputs=7)(torch.zeros(1, 1, 2, 2)).shape == (1, 7)


def test_the_weights_come_from_the_current_random_state() -> None:
    made = []
    for seed in (1, 1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made.append(next(built("mlp").parameters()))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_a_builder_from_outside_joins_by_its_path_and_gets_its_options_by_name() -> None:
    assert sum(p.numel() for p in built(f"{HERE}:own_model").parameters()) == 15
    assert sum(p.numel() for p in built(f"{HERE}:own_model", options='{"bias": false}').parameters()) == 12
    assert sum(p.numel() for p in built(f"{HERE}:any_option", options='{"shape": [2, 5]}').parameters()) == 15


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mlp", '{"depth": 3}', r"model.options holds 'depth', which model 'mlp' does not know\. Known: none"),
        (f"{HERE}:own_model", '{"bais": false}', r"holds 'bais'.*did you mean 'bias'\? Known: bias"),
    ],
)
def test_an_option_that_a_builder_does_not_know_is_refused(name: str, options: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        built(name, options=options)
    assert caught.value.key == "model.options"


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"model.name is 'mpl', .*did you mean 'mlp'\?") as caught:
        built("mpl")
    assert caught.value.key == "model.name"


def test_messages_name_the_group_of_keys() -> None:
    with pytest.raises(ConfigError, match=r"teacher.name is 'mpl'") as caught:
        build_model("mpl", ModelConfig(), SPEC, group="teacher")
    assert caught.value.key == "teacher.name"


def test_a_builder_that_gives_no_module_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"built a str, expected a torch\.nn\.Module"):
        built(f"{HERE}:not_a_module")


def test_a_builder_that_takes_other_arguments_is_told_how_to_take_them() -> None:
    with pytest.raises(ConfigError, match=r"cannot be called with \(config, spec\).*write the builder as build\("):
        built(f"{HERE}:of_old")


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_name_with_a_library_is_built_by_it(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def adapter(name: str, config: ModelConfig, spec: ModelSpec) -> nn.Module:
        asked.append((name, spec.num_outputs))
        return nn.Identity()

    monkeypatch.setattr(build, "resolve", lambda table, path, what: asked.append(path) or adapter)
    built(f"{library}/some")
    built(f"{library}/some", num_outputs=7)
    assert asked == [LIBRARIES[library], (f"{library}/some", 3), LIBRARIES[library], (f"{library}/some", 7)]


@pytest.mark.parametrize("library", FOLDERS)
def test_a_folder_or_a_name_on_the_hub_is_read_by_the_library(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(build, "resolve", lambda table, path, what: asked.append(path) or (lambda *_: nn.Identity()))
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    built(f"{library}/some", weights=str(tmp_path))
    built(f"{library}/some", weights="someone/something", download=True)
    assert asked == [FOLDERS[library]] * 2


def test_an_unknown_library_is_no_model() -> None:
    with pytest.raises(ConfigError, match="'torchvison/resnet18', which is no model here"):
        built("torchvison/resnet18")


def test_weights_are_those_of_the_file_or_of_the_one_in_the_folder(tmp_path: Path) -> None:
    saved = built("mlp").state_dict()
    file = tmp_path / "model.safetensors"
    save_file(saved, file)
    for weights in (file, tmp_path):
        for name, tensor in built("mlp", weights=str(weights)).state_dict().items():
            assert torch.equal(tensor, saved[name])


def test_only_two_libraries_know_the_hub() -> None:
    with pytest.raises(
        ConfigError, match=r"model.weights is 'someone/something'.*only transformers, diffusers"
    ) as caught:
        built("mlp", weights="someone/something", download=True)
    assert caught.value.key == "model.weights"


def test_weights_of_another_architecture_name_what_differs(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file(built(f"{HERE}:own_model").state_dict(), file)
    message = (
        r"model.weights is '.*other.safetensors', which is a checkpoint of another architecture than 'mlp': it lacks "
    )
    with pytest.raises(ConfigError, match=message) as caught:
        built("mlp", weights=str(file))
    assert caught.value.key == "model.weights"

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedkd.errors import ConfigError
from fedkd.models import LIBRARIES, zoo
from fedkd.models.build import build_model, check_outputs
from fedkd.models.config import ModelConfig

HERE = "tests.models.test_build"


def build(name: str, **options: Any) -> nn.Module:
    return build_model(name, ModelConfig(hidden=4, **options), input_shape=(1, 2, 2), num_outputs=3)


def own_model(config: ModelConfig, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, num_outputs))


def not_a_module(config: ModelConfig, *, input_shape: tuple[int, ...], num_outputs: int) -> str:
    return "a model, honestly"


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_the_head_has_one_output_per_class_unless_told_otherwise() -> None:
    assert build("mlp")(torch.zeros(1, 1, 2, 2)).shape == (1, 3)
    assert build("mlp", num_outputs=7)(torch.zeros(1, 1, 2, 2)).shape == (1, 7)


def test_the_weights_come_from_the_current_random_state() -> None:
    made = []
    for seed in (1, 1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made.append(next(build("mlp").parameters()))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_a_builder_from_outside_joins_by_its_path() -> None:
    model = build(f"{HERE}:own_model")
    check_outputs(model, input_shape=(1, 2, 2), num_outputs=3, name="own")
    assert sum(p.numel() for p in model.parameters()) == 15


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"model.name is 'mpl', .*did you mean 'mlp'\?") as caught:
        build("mpl")
    assert caught.value.key == "model.name"


def test_a_builder_that_gives_no_module_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"built a str, expected a torch\.nn\.Module"):
        build(f"{HERE}:not_a_module")


def test_the_wrong_number_of_outputs_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"shape \(1, 7\), expected \(1, 3\).*set model.num_outputs = 3") as caught:
        check_outputs(build("mlp", num_outputs=7), input_shape=(1, 2, 2), num_outputs=3, name="mlp")
    assert caught.value.key == "model.num_outputs"


@pytest.mark.parametrize("model", [build("mlp"), nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 3))])
def test_an_input_that_the_model_cannot_take_is_refused(model: nn.Module) -> None:
    with pytest.raises(ConfigError, match=r"cannot take inputs of shape \(1, 3, 3\)"):
        check_outputs(model, input_shape=(1, 3, 3), num_outputs=3, name="x")


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.shape[-1] == 224, "Wrong image width!")  # as vision transformers do
        return x


def test_a_model_that_asserts_its_input_size_is_refused_as_others_are() -> None:
    with pytest.raises(ConfigError, match=r"cannot take inputs of shape \(1, 3, 3\): Wrong image width!") as caught:
        check_outputs(Square(), input_shape=(1, 3, 3), num_outputs=3, name="x")
    assert caught.value.key == "model.name"


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_name_with_a_library_is_built_by_it(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def from_library(name: str, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        asked.append((name, input_shape, num_outputs))
        return nn.Identity()

    monkeypatch.setattr(zoo, "build_from_library", from_library)
    build(f"{library}/resnet18")
    build(f"{library}/resnet18", num_outputs=7)
    assert asked == [(f"{library}/resnet18", (1, 2, 2), 3), (f"{library}/resnet18", (1, 2, 2), 7)]


def test_an_unknown_library_is_no_model() -> None:
    with pytest.raises(ConfigError, match="'torchvison/resnet18', which is no model here"):
        build("torchvison/resnet18")


def test_an_answer_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(ConfigError, match="answers with a tuple, expected one tensor"):
        check_outputs(Pair(), input_shape=(3,), num_outputs=3, name="pair")

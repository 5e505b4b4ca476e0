from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedkd.errors import ConfigError
from fedkd.models.build import build_model
from fedkd.models.check import check_model
from fedkd.models.config import ModelConfig
from fedkd.models.outputs import logits_of
from fedkd.models.spec import ModelSpec


def build(
    name: str, shape: tuple[int, ...] = (3, 32, 32), outputs: int = 3, head: str = "classification", **options: Any
) -> nn.Module:
    spec = ModelSpec(input_shape=shape, num_outputs=outputs, head=head)
    model = build_model(f"torchvision/{name}", ModelConfig(**options), spec)
    check_model(model, spec, name=name)
    return model


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_classifiers_by_name_on_grey_and_colour(shape: tuple[int, ...]) -> None:
    assert build("resnet18", shape, 7)(torch.zeros(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "fcn_resnet50"])
def test_segmentation_models_answer_maps(name: str) -> None:
    model = build(name, outputs=4, head="segmentation")
    answer = model.train()(torch.zeros(2, 3, 32, 32))
    assert list(answer) == ["out"]
    assert logits_of(answer).shape == (2, 4, 32, 32)


def test_segmentation_models_take_grey_images_too() -> None:
    build("lraspp_mobilenet_v3_large", (1, 32, 32), head="segmentation")


def test_a_model_of_another_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="no model for the task 'segmentation'"):
        build("squeezenet1_1", head="segmentation")
    with pytest.raises(ConfigError, match="no model for the task 'classification'"):
        build("lraspp_mobilenet_v3_large")


def test_weights_come_from_the_current_random_state() -> None:
    made = []
    for seed in (1, 1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made.append(next(build("squeezenet1_1").parameters()))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_no_side_heads_in_training() -> None:
    answer = build("googlenet", (1, 32, 32), 4).train()(torch.zeros(2, 1, 32, 32))
    assert isinstance(answer, Tensor)
    assert answer.shape == (2, 4)


def test_vision_transformers_follow_the_size_of_the_images() -> None:
    build("vit_b_32", (3, 64, 64))
    with pytest.raises(ConfigError, match=r"model.name is 'torchvision/vit_b_32', which cannot be built for such data"):
        build("vit_b_32", (3, 40, 40))


def test_options_are_arguments_of_the_library_s_builder() -> None:
    wide = build("squeezenet1_1", options='{"dropout": 0.25}')
    assert [layer.p for layer in wide.modules() if isinstance(layer, nn.Dropout)] == [0.25]
    with pytest.raises(
        ConfigError, match=r"model.options holds an argument that 'torchvision/resnet18' does not know.*'bogus'"
    ) as caught:
        build("resnet18", options='{"bogus": 1}')
    assert caught.value.key == "model.options"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet81", r"; did you mean 'resnet18'\?"),
        ("fcn_resnet5", r"; did you mean 'fcn_resnet50'\?"),
        ("squirrel_net_of_mine", r"\.|;"),
        ("", r"\."),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(name: str, hint: str) -> None:
    message = f"model.name is 'torchvision/{name}', which its library does not have{hint}"
    with pytest.raises(ConfigError, match=message) as caught:
        build(name)
    assert caught.value.key == "model.name"


def test_data_that_are_no_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="'torchvision/resnet18', which takes images"):
        build("resnet18", (64,))

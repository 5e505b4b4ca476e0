import importlib
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedkd import extras
from fedkd.errors import ConfigError, MissingExtraError
from fedkd.models.build import check_outputs
from fedkd.models.zoo import build_from_library


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_torchvision_by_name_on_grey_and_colour(shape: tuple[int, ...]) -> None:
    model = build_from_library("torchvision/resnet18", input_shape=shape, num_outputs=7)
    check_outputs(model, input_shape=shape, num_outputs=7, name="torchvision/resnet18")
    assert model(torch.zeros(2, *shape)).shape == (2, 7)


def test_grey_is_repeated_to_three_channels() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        grey = build_from_library("torchvision/resnet18", input_shape=(1, 32, 32), num_outputs=3)
        torch.manual_seed(0)
        colour = build_from_library("torchvision/resnet18", input_shape=(3, 32, 32), num_outputs=3)
        x = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(grey.eval()(x), colour.eval()(torch.cat([x, x, x], dim=1)))


def test_weights_come_from_the_current_random_state() -> None:
    made = []
    for seed in (1, 1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_from_library("torchvision/squeezenet1_1", input_shape=(3, 32, 32), num_outputs=2)
            made.append(next(model.parameters()))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_no_side_heads_in_training() -> None:
    model = build_from_library("torchvision/googlenet", input_shape=(1, 32, 32), num_outputs=4)
    answer = model.train()(torch.zeros(2, 1, 32, 32))
    assert isinstance(answer, Tensor)
    assert answer.shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "hint"), [("resnet81", r"; did you mean 'resnet18'\?"), ("squirrel_net_of_mine", r"\.|;"), ("", r"\.")]
)
def test_an_unknown_name_is_refused_with_the_nearest_one(name: str, hint: str) -> None:
    message = f"model.name is 'torchvision/{name}', which its library does not have{hint}"
    with pytest.raises(ConfigError, match=message) as caught:
        build_from_library(f"torchvision/{name}", input_shape=(3, 32, 32), num_outputs=2)
    assert caught.value.key == "model.name"


def test_without_timm_the_extra_that_brings_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def without_timm(name: str, package: str | None = None) -> ModuleType:
        if name == "timm":
            raise ModuleNotFoundError("No module named 'timm'", name="timm")
        return real(name, package)

    monkeypatch.setattr(extras.importlib, "import_module", without_timm)
    with pytest.raises(MissingExtraError, match=r"model 'timm/resnet18' needs 'timm'.*pip install 'fedkd\[vision\]'"):
        build_from_library("timm/resnet18", input_shape=(3, 32, 32), num_outputs=2)


def test_timm_is_asked_for_a_fresh_model_of_that_many_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def create_model(name: str, **options: Any) -> nn.Module:
        asked.append((name, options))
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, options["num_classes"]))

    timm = SimpleNamespace(list_models=lambda: ["tiny", "tinier"], create_model=create_model)
    monkeypatch.setattr(extras.importlib, "import_module", {"timm": timm}.__getitem__)
    grey = build_from_library("timm/tiny", input_shape=(1, 4, 4), num_outputs=5)
    assert grey(torch.zeros(2, 1, 4, 4)).shape == (2, 5)
    assert asked == [("tiny", {"pretrained": False, "num_classes": 5})]
    with pytest.raises(ConfigError, match=r"'timm/tinyer'.*did you mean 'tin(ier|y)'\?"):
        build_from_library("timm/tinyer", input_shape=(1, 4, 4), num_outputs=5)

import importlib
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
from fedkd.models.spec import ModelSpec


def build(name: str, shape: tuple[int, ...] = (3, 32, 32), outputs: int = 5, **options: Any) -> nn.Module:
    spec = ModelSpec(input_shape=shape, num_outputs=outputs)
    model = build_model(f"timm/{name}", ModelConfig(**options), spec)
    check_model(model, spec, name=name)
    return model


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 32, 32), (4, 32, 32)])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_models_follow_the_data(name: str, shape: tuple[int, ...]) -> None:
    assert build(name, shape, 7)(torch.zeros(2, *shape)).shape == (2, 7)


def test_weights_come_from_the_current_random_state() -> None:
    made = []
    for seed in (1, 1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made.append(next(build("test_resnet").parameters()))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_options_are_arguments_of_the_model() -> None:
    dropped = build("test_resnet", options='{"drop_rate": 0.25}')
    assert dropped.drop_rate == 0.25
    with pytest.raises(
        ConfigError, match=r"model.options holds an argument that 'timm/test_resnet' does not know.*bogus"
    ):
        build("test_resnet", options='{"bogus": 1}')


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"model.name is 'timm/test_resent'.*did you mean 'test_resnet'\?"):
        build("test_resent")


def test_without_timm_the_extra_that_brings_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def without_timm(name: str, package: str | None = None) -> ModuleType:
        if name == "timm":
            raise ModuleNotFoundError("No module named 'timm'", name="timm")
        return real(name, package)

    monkeypatch.setattr(extras.importlib, "import_module", without_timm)
    with pytest.raises(MissingExtraError, match=r"model 'timm/resnet18' needs 'timm'.*pip install 'fedkd\[vision\]'"):
        build("resnet18")

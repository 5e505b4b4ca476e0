import pytest
import torch
from torch import nn

from fedkd.errors import ConfigError
from fedkd.models.heads import cut_head


def test_the_layer_that_was_registered_last_becomes_the_identity() -> None:
    inner = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2), nn.Softplus())
    model = nn.Sequential(nn.Flatten(), inner)
    assert cut_head(model, key="name") == ("1.1", 5)
    assert model(torch.zeros(4, 3)).shape == (4, 5)
    assert type(inner[1]) is nn.Identity


@pytest.mark.parametrize("model", [nn.Linear(3, 2), nn.Sequential(nn.Conv2d(1, 2, 3))])
def test_a_model_without_one_inside_is_refused(model: nn.Module) -> None:
    with pytest.raises(ConfigError, match="which has no linear layer inside") as caught:
        cut_head(model, key="teacher.name")
    assert caught.value.key == "teacher.name"
    assert str(caught.value).startswith("teacher.name names a ")
    with pytest.raises(ConfigError, match=r"^names a "):
        cut_head(model, key="feature_model")

"""What every model in the table must keep."""

import pytest
import torch

from fedkd.experiment import Experiment
from fedkd.models import MODELS
from fedkd.models.build import check_outputs
from fedkd.models.config import ModelConfig
from fedkd.models.pool import ClientModels, ModelPool, snapshot
from tests.contract.toys import digest_of, stored

pytestmark = [pytest.mark.usefixtures("one_torch_thread"), pytest.mark.parametrize("name", MODELS)]

SHAPES = [(1, 28, 28), (3, 32, 32)]


def models_of(name: str, shape: tuple[int, ...], **options: float) -> ClientModels:
    return ModelPool(ModelConfig(name=name, **options), shape, 10).for_client(0)  # type: ignore[arg-type]


def test_config_round_trip(name: str) -> None:
    first = Experiment.build({"model.name": name, "model.dropout": 0.25})
    assert Experiment.build(first.flat()).model == first.model


@pytest.mark.parametrize("shape", SHAPES)
def test_it_answers_images_with_one_logit_per_output(name: str, shape: tuple[int, ...]) -> None:
    models = models_of(name, shape)
    model = models.load("student", models.fresh())
    check_outputs(model, input_shape=shape, num_outputs=10, name=name)
    with torch.inference_mode():
        assert model(torch.zeros(0, *shape)).shape == (0, 10)


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_survive_storage_and_decide_the_answer(name: str, shape: tuple[int, ...]) -> None:
    models, x = models_of(name, shape), torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
    x = x[:, : shape[0], : shape[1], : shape[2]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, second = models.fresh(), models.fresh()
    assert digest_of(first) != digest_of(second)
    answers = []
    for weights in (first, second, stored(first)):
        model = models.load("student", weights).eval()
        assert digest_of(snapshot(model)) == digest_of(weights)
        with torch.no_grad():
            answers.append(model(x))
    assert torch.equal(answers[0], answers[2])
    assert not torch.equal(answers[0], answers[1])


def test_every_parameter_learns_also_from_a_single_sample(name: str) -> None:
    models = models_of(name, (1, 28, 28))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.load("student", models.fresh()).train()
        model(torch.randn(1, 1, 28, 28)).logsumexp(-1).sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()

"""What every model in the table must keep."""

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from fedkd.experiment import Experiment
from fedkd.models import MODELS
from fedkd.models.check import check_model
from fedkd.models.config import ModelConfig
from fedkd.models.outputs import logits_of
from fedkd.models.pool import ClientModels, ModelPool, snapshot
from fedkd.models.spec import ModelSpec
from fedkd.testing.toys import digest_of, stored
from tests.models.test_prompted import OPTIONS as TINY_UNET

pytestmark = [pytest.mark.usefixtures("one_torch_thread"), pytest.mark.parametrize("name", MODELS)]

HEADS: Mapping[str, str] = {  # all others classify
    "seg_net": "segmentation",
    "tiny_lm": "language",
    "tiny_diffusion": "diffusion",
    "prompted_unet": "diffusion",
}
OPTIONS: Mapping[str, Any] = {"prompted_unet": TINY_UNET}  # of models that are large by default
PROMPTS = {"t": ((), "int64"), "prompt": ((6,), "int32")}


def specs(name: str) -> list[ModelSpec]:
    """Small and large data of the kind that the model is for."""
    head = HEADS.get(name, "classification")
    if head == "language":
        return [ModelSpec(input_shape=(size,), num_outputs=10, head=head, dtype="int32") for size in (5, 16)]
    if head == "diffusion":
        shapes = ((1, 8, 8), (3, 16, 16))
        return [ModelSpec(input_shape=shape, num_outputs=math.prod(shape), head=head, more=PROMPTS) for shape in shapes]
    return [ModelSpec(input_shape=shape, num_outputs=10, head=head) for shape in ((1, 28, 28), (3, 32, 32))]


def models_of(name: str, spec: ModelSpec) -> ClientModels:
    options = json.dumps(OPTIONS[name]) if name in OPTIONS else ""
    return ModelPool(ModelConfig(name=name, hidden=8, options=options), spec).for_client(0)


def inputs(spec: ModelSpec, size: int) -> tuple[Tensor, ...]:
    """Arguments for some samples, all different."""
    if spec.takes_tokens:
        return ((torch.arange(size)[:, None] + torch.arange(*spec.input_shape)) % spec.num_outputs,)
    x = torch.linspace(-1, 1, size * 3 * 32 * 32).reshape(size, 3, 32, 32)
    x = x[:, : spec.input_shape[0], : spec.input_shape[1], : spec.input_shape[2]]
    if spec.head == "diffusion":
        return (x, torch.arange(size), (torch.arange(size)[:, None] + torch.arange(6)) % 16)
    return (x,)


def test_config_round_trip(name: str) -> None:
    first = Experiment.build({"model.name": name, "model.dropout": 0.25, "teacher.name": name, "teacher.hidden": 7})
    again = Experiment.build(first.flat())
    assert (again.model, again.teacher) == (first.model, first.teacher)


def test_it_answers_as_its_task_expects(name: str) -> None:
    for spec in specs(name):
        models = models_of(name, spec)
        model = models.load("student", models.fresh())
        check_model(model, spec, name=name)
        with torch.inference_mode():
            assert logits_of(model(*inputs(spec, 0))).shape[:1] == (0,)


def test_weights_survive_storage_and_decide_the_answer(name: str) -> None:
    for spec in specs(name):
        models, x = models_of(name, spec), inputs(spec, 2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            first, second = models.fresh(), models.fresh()
        assert digest_of(first) != digest_of(second)
        answers = []
        for weights in (first, second, stored(first)):
            model = models.load("student", weights).eval()
            assert digest_of(snapshot(model)) == digest_of(weights)
            with torch.no_grad():
                answers.append(logits_of(model(*x)))
        assert torch.equal(answers[0], answers[2])
        assert not torch.equal(answers[0], answers[1])


def test_every_parameter_learns_also_from_a_single_sample(name: str) -> None:
    spec = specs(name)[0]
    models = models_of(name, spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.load("student", models.fresh())
        x, *others = inputs(spec, 1)
        x = x if spec.takes_tokens else torch.randn(1, *spec.input_shape)
        logits_of(model(x, *others)).square().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()

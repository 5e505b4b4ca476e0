import pytest
import torch
from torch import Tensor, nn

from fedkd.errors import ConfigError
from fedkd.models.build import build_model
from fedkd.models.check import check_model, example_inputs
from fedkd.models.config import ModelConfig
from fedkd.models.spec import ModelSpec

IMAGE = ModelSpec(input_shape=(1, 2, 2), num_outputs=3)
TEXT = ModelSpec(input_shape=(5,), num_outputs=7, head="language", dtype="int32")
MAP = ModelSpec(input_shape=(3, 8, 8), num_outputs=4, head="segmentation")
NOISE = ModelSpec(input_shape=(4, 8, 8), num_outputs=256, head="diffusion")
PROMPTS = ModelSpec(input_shape=(3, 8, 8), num_outputs=5, head="image_text")


class Answering(nn.Module):
    """Answers anything with zeros of one shape, and remembers what it was asked."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape
        self.asked: list[Tensor] = []

    def forward(self, *inputs: Tensor) -> Tensor:
        self.asked = list(inputs)
        return torch.zeros(self.shape)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.shape[-1] == 224, "Wrong image width!")  # as vision transformers do
        return x


def mlp(outputs: int) -> nn.Module:
    return build_model("mlp", ModelConfig(hidden=4, num_outputs=outputs), IMAGE)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (IMAGE, (1, 3)),
        (MAP, (1, 4, 8, 8)),
        (MAP, (1, 4, 2, 2)),
        (TEXT, (1, 5, 7)),
        (NOISE, (1, 4, 8, 8)),
    ],
)
def test_each_head_has_its_shape(spec: ModelSpec, shape: tuple[int, ...]) -> None:
    model = Answering(*shape)
    check_model(model, spec, name="x")
    assert model.asked[0].shape == (1, *spec.input_shape)


@pytest.mark.parametrize(
    ("spec", "shape", "message", "key"),
    [
        (IMAGE, (1, 7), r"shape \(1, 7\), expected \(1, 3\).*set model.num_outputs = 3", "model.num_outputs"),
        (MAP, (1, 3, 8, 8), r"expected \(1, 4, height, width\).*4 classes", "model.num_outputs"),
        (MAP, (1, 4), r"expected \(1, 4, height, width\): it is no model for the task 'segmentation'", "model.name"),
        (TEXT, (1, 5, 9), r"vocabulary of 7 tokens \(mismatched vocabularies\)", "model.num_outputs"),
        (TEXT, (1, 7), r"expected \(1, 5, 7\)", "model.num_outputs"),
        (NOISE, (1, 4, 4, 4), r"predict noise of its input's shape", "model.options"),
        (IMAGE, (1, 3, 8, 8), r"no model for the task 'classification'", "model.name"),
    ],
)
def test_another_shape_is_refused(spec: ModelSpec, shape: tuple[int, ...], message: str, key: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_model(Answering(*shape), spec, name="x")
    assert caught.value.key == key


def test_the_wrong_number_of_outputs_is_refused_in_the_group_that_says_so() -> None:
    with pytest.raises(ConfigError, match=r"set teacher.num_outputs = 3") as caught:
        check_model(mlp(7), IMAGE, name="mlp", group="teacher")
    assert caught.value.key == "teacher.num_outputs"


@pytest.mark.parametrize("model", [mlp(3), nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 3))])
def test_an_input_that_the_model_cannot_take_is_refused(model: nn.Module) -> None:
    other = ModelSpec(input_shape=(1, 3, 3), num_outputs=3)
    with pytest.raises(ConfigError, match=r"cannot take inputs of shape \(1, 3, 3\)"):
        check_model(model, other, name="x")


def test_a_model_that_asserts_its_input_size_is_refused_as_others_are() -> None:
    with pytest.raises(ConfigError, match=r"cannot take inputs of shape \(1, 2, 2\): Wrong image width!") as caught:
        check_model(Square(), IMAGE, name="x")
    assert caught.value.key == "model.name"


def test_an_answer_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(ConfigError, match="model 'pair' answers with a tuple, expected one tensor"):
        check_model(Pair(), IMAGE, name="pair")


def test_a_vocabulary_that_is_too_small_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"does not know all token numbers.*mismatched vocabularies") as caught:
        check_model(nn.Embedding(6, 7), TEXT, name="x")
    assert caught.value.key == "model.options"


def test_a_task_from_outside_checks_the_shape_itself() -> None:
    check_model(Answering(9, 9), ModelSpec(input_shape=(2,), num_outputs=3, head="oddity"), name="x")


def test_other_inputs_may_be_given_by_position_or_by_name() -> None:
    model = Answering(1, 3)
    check_model(model, IMAGE, (torch.ones(1, 2), torch.ones(1, 4)), name="x")
    assert [tuple(x.shape) for x in model.asked] == [(1, 2), (1, 4)]

    class Named(nn.Module):
        def forward(self, *, a: Tensor, b: Tensor) -> Tensor:
            return a + b

    check_model(Named(), IMAGE, {"a": torch.zeros(1, 3), "b": torch.zeros(1, 3)}, name="x")


def test_examples_have_the_type_of_the_data() -> None:
    (tokens,) = example_inputs(TEXT, nn.Identity())
    assert (tokens.dtype, tokens.tolist()) == (torch.int64, [[6] * 5])  # type: ignore[union-attr]
    (x,) = example_inputs(IMAGE, nn.Identity())
    assert x.dtype == torch.float32  # type: ignore[union-attr]


def test_a_diffusion_model_gets_a_step_and_its_context() -> None:
    model = Answering(1, 4, 8, 8)
    check_model(model, NOISE, name="x")
    assert [tuple(x.shape) for x in model.asked] == [(1, 4, 8, 8), (1,)]
    conditioned = ModelSpec(input_shape=(4, 8, 8), num_outputs=256, head="diffusion", context=(6, 16))
    check_model(model, conditioned, name="x")
    assert tuple(model.asked[2].shape) == (1, 6, 16)


def test_a_pair_of_towers_answers_by_text_and_one_alone_with_its_embedding() -> None:
    class Both(nn.Module):
        def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
            return torch.zeros(len(pixel_values), len(input_ids))

    class Image(nn.Module):
        def forward(self, pixel_values: Tensor) -> object:
            return object()

    check_model(Both(), PROMPTS, name="x")
    check_model(Image(), PROMPTS, name="x")


def test_further_inputs_of_the_data_go_to_models_that_name_them() -> None:
    class Pairs(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            assert (a.shape, b.shape, b.dtype) == ((1, 4), (1, 2), torch.float32)
            return torch.zeros(1, 3)

    class Alone(nn.Module):
        def forward(self, a: Tensor) -> Tensor:
            return torch.zeros(1, 3)

    class Prompted(nn.Module):
        def forward(self, x: Tensor, t: Tensor, prompt: Tensor) -> Tensor:
            assert (t.shape, prompt.shape, prompt.dtype) == ((1,), (1, 6), torch.int64)
            return x

    pairs = ModelSpec(input_shape=(4,), num_outputs=3, head="image_text", more={"b": ((2,), "float32")})
    check_model(Pairs(), pairs, name="x")
    check_model(Alone(), pairs, name="x")
    tuples = ModelSpec(
        input_shape=(4, 2, 2),
        num_outputs=16,
        head="diffusion",
        more={"t": ((), "int64"), "prompt": ((6,), "int32")},
    )
    check_model(Prompted(), tuples, name="x")

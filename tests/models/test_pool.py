import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fedkd.errors import ConfigError, StateError
from fedkd.models.build import build_model
from fedkd.models.config import ModelConfig
from fedkd.models.pool import ModelPool, snapshot
from fedkd.models.roles import ModelRole
from fedkd.models.spec import ModelSpec
from fedkd.testing.toys import digest_of, stored

OTHER = "tests.models.test_build:own_model"
SPEC = ModelSpec(input_shape=(1, 2, 2), num_outputs=3)
TEXT = ModelSpec(input_shape=(5,), num_outputs=7, head="language", dtype="int32")
GPT2 = ModelConfig(name="transformers/gpt2", options='{"n_embd": 8, "n_layer": 1, "n_head": 2}')
ROLES = (
    ModelRole(name="student"),
    ModelRole(name="teacher", frozen=True, group="teacher"),
    ModelRole(name="perhaps", frozen=True, optional=True, group="teacher"),
    ModelRole(name="origin", frozen=True, source="copy_of_student"),
    ModelRole(name="trained", source="trained", group="teacher"),
)


@pytest.fixture
def pool() -> ModelPool:
    return ModelPool(ModelConfig(name=f"mlp, {OTHER}", hidden=4), SPEC)


def with_teacher(tmp_path: Path) -> tuple[ModelPool, dict[str, torch.Tensor]]:
    """A pool whose teacher is an mlp of another width, from a file."""
    file = tmp_path / "teacher.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)  # some weights leave no unit alive on an input, and then no gradient
        weights = build_model("mlp", ModelConfig(hidden=6), SPEC).state_dict()
    save_file(weights, file)
    teacher = ModelConfig(hidden=6, weights=str(file))
    return ModelPool(ModelConfig(hidden=4), SPEC, teacher=teacher, roles=ROLES), weights


def test_clients_of_one_architecture_share_a_live_module(pool: ModelPool) -> None:
    weights = pool.for_client(0).fresh()
    first = pool.for_client(0).load("student", weights)
    assert pool.for_client(2).load("student", weights) is first
    assert pool.for_client(0).load("ema", weights) is not first


def test_architectures_are_dealt_out_in_turn(pool: ModelPool) -> None:
    assert [len(pool.for_client(i).fresh()) for i in range(4)] == [4, 2, 4, 2]
    assert [pool.for_client(i).architecture for i in range(3)] == ["mlp", OTHER, "mlp"]
    assert pool.live("mlp", "student") is not pool.live(OTHER, "student")


def test_loading_never_moves_the_random_state_of_the_caller(tmp_path: Path) -> None:
    pool, _ = with_teacher(tmp_path)
    models = pool.for_client(0)
    weights = models.fresh()
    before = torch.random.get_rng_state()
    models.load("student", weights)  # builds the live module
    models.frozen("teacher")
    models.fresh("teacher")
    models.custom("gate", lambda: nn.Linear(2, 2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_fresh_weights_come_from_the_random_state_of_the_caller(pool: ModelPool) -> None:
    made = []
    for seed in (5, 5, 6):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made.append(pool.for_client(0).fresh()["1.weight"])
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_the_module_holds_the_weights_loaded_last_and_no_gradient(pool: ModelPool) -> None:
    models = pool.for_client(0)
    first, second = models.fresh(), models.fresh()
    model = models.load("student", first)
    model(torch.ones(1, 1, 2, 2)).sum().backward()
    models.load("student", second)
    assert torch.equal(next(model.parameters()), second["1.weight"])
    assert all(p.grad is None for p in model.parameters())


def test_training_touches_neither_what_was_loaded_nor_a_snapshot(pool: ModelPool) -> None:
    models = pool.for_client(0)
    weights = models.fresh()
    model = models.load("student", weights)
    loaded, taken = weights["1.weight"].clone(), snapshot(model)
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert torch.equal(weights["1.weight"], loaded)
    assert torch.equal(taken["1.weight"], loaded)
    assert torch.equal(snapshot(model)["1.weight"], loaded + 1.0)


def test_a_snapshot_holds_buffers_too() -> None:
    norm = nn.BatchNorm1d(2)
    norm(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
    assert snapshot(norm)["running_mean"].tolist() == pytest.approx([0.1, 0.3])
    assert snapshot(norm)["num_batches_tracked"].item() == 1


def test_no_client_leaves_anything_behind_for_the_next(pool: ModelPool) -> None:
    models = pool.for_client(0)
    weights = models.fresh()
    model = models.load("student", weights)
    model.eval().requires_grad_(False)
    called: list[int] = []
    model.register_forward_hook(lambda *_: called.append(1))
    again = models.load("student", weights)
    again(torch.ones(1, 1, 2, 2))
    assert again.training
    assert all(p.requires_grad for p in again.parameters())
    assert called == []


def test_a_module_whose_tensors_were_replaced_is_built_anew(pool: ModelPool) -> None:
    models = pool.for_client(0)
    weights = models.fresh()
    model = models.load("student", weights)
    model.append(nn.Linear(3, 3))  # type: ignore[operator]
    again = models.load("student", weights)
    assert again is not model
    assert len(snapshot(again)) == 4


def test_weights_of_another_architecture_are_refused(pool: ModelPool) -> None:
    with pytest.raises(StateError, match="belongs to another architecture"):
        pool.for_client(0).load("student", pool.for_client(1).fresh())


def test_the_trainable_part_alone_may_be_kept(pool: ModelPool) -> None:
    models = pool.for_client(0)
    whole = models.fresh()
    model = models.load("student", whole)
    model[1].requires_grad_(False)  # type: ignore[index]
    part = snapshot(model, trainable_only=True)
    assert sorted(part) == ["3.bias", "3.weight"]
    with torch.no_grad():
        model[3].bias.add_(1.0)  # type: ignore[index]
    again = models.load("student", part, strict=False)
    assert digest_of(snapshot(again)) == digest_of(whole)
    with pytest.raises(StateError, match="it lacks"):
        models.load("student", part)


def test_a_teacher_is_read_once_and_never_trained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pool, weights = with_teacher(tmp_path)
    models = pool.for_client(0)
    with caplog.at_level(logging.INFO):
        teacher = models.frozen("teacher")
    assert "role teacher: mlp with weights" in caplog.text
    assert "sha256 " in caplog.text
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    assert digest_of(snapshot(teacher)) == digest_of(dict(weights))
    (tmp_path / "teacher.safetensors").unlink()
    teacher.train().requires_grad_(True)  # somebody's mistake
    assert pool.for_client(1).frozen("teacher") is teacher
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())


def test_gradients_pass_through_a_frozen_model_to_its_inputs(tmp_path: Path) -> None:
    pool, _ = with_teacher(tmp_path)
    x = torch.ones(1, 1, 2, 2, requires_grad=True)
    pool.for_client(0).frozen("teacher")(x).sum().backward()
    assert x.grad is not None
    assert x.grad.any()


def test_a_teacher_that_is_not_configured_is_refused_and_an_optional_one_can_be_asked_for(tmp_path: Path) -> None:
    without = ModelPool(ModelConfig(hidden=4), SPEC, roles=ROLES).for_client(0)
    with pytest.raises(ConfigError, match=r"teacher.weights is empty, but the teacher is never trained") as caught:
        without.frozen("teacher")
    assert caught.value.key == "teacher.weights"
    assert not without.has("perhaps")
    assert all(without.has(name) for name in ("student", "origin", "trained"))
    assert with_teacher(tmp_path)[0].for_client(0).has("perhaps")


def test_roles_have_the_architecture_of_their_group(tmp_path: Path) -> None:
    pool, _ = with_teacher(tmp_path)
    models = pool.for_client(0)
    assert models.fresh("trained")["1.weight"].shape == (6, 4)
    assert models.fresh("student")["1.weight"].shape == (4, 4)
    assert models.load("origin", models.fresh()) is not models.load("student", models.fresh())


def test_a_role_declared_frozen_is_loaded_so(tmp_path: Path) -> None:
    pool, _ = with_teacher(tmp_path)
    models = pool.for_client(0)
    origin = models.load("origin", models.fresh())
    assert not origin.training
    assert not any(p.requires_grad for p in origin.parameters())


def test_students_may_start_from_a_file_all_alike(tmp_path: Path) -> None:
    file = tmp_path / "start.safetensors"
    weights = build_model("mlp", ModelConfig(hidden=4), SPEC).state_dict()
    save_file(weights, file)
    pool = ModelPool(ModelConfig(hidden=4, weights=str(file)), SPEC)
    first = pool.for_client(0).fresh()
    assert digest_of(first) == digest_of(dict(weights))
    first["1.weight"].zero_()
    assert digest_of(pool.for_client(1).fresh()) == digest_of(dict(weights))


def test_modules_of_a_trainers_own_making_live_once_per_key_and_architecture(pool: ModelPool) -> None:
    def build() -> nn.Module:
        return nn.Linear(2, 2)

    models = pool.for_client(0)
    weights = snapshot(build())
    gate = models.custom("gate", build, weights)
    assert digest_of(snapshot(gate)) == digest_of(weights)
    gate.requires_grad_(False)
    assert pool.for_client(2).custom("gate", build) is gate
    assert all(p.requires_grad for p in gate.parameters())
    assert models.custom("other", build) is not gate
    assert pool.for_client(1).custom("gate", build) is not gate
    with pytest.raises(StateError):
        models.custom("gate", build, {"weight": weights["weight"]})


def test_a_method_may_name_further_models(pool: ModelPool) -> None:
    models = pool.for_client(0)
    assert models.build("mlp", hidden=9)(torch.zeros(1, 1, 2, 2)).shape == (1, 3)
    wider = ModelSpec(input_shape=(5,), num_outputs=2)
    assert models.build("mlp", spec=wider)(torch.zeros(1, 5)).shape == (1, 2)
    with pytest.raises(ConfigError, match=r"method.name is 'mpl'"):
        models.build("mpl")


def test_channels_come_last_for_images_alone() -> None:
    def first_weight(spec: ModelSpec) -> torch.Tensor:
        return next(
            ModelPool(ModelConfig(name="tests.models.test_pool:convolution"), spec)
            .build("tests.models.test_pool:convolution")
            .parameters()
        )

    assert first_weight(ModelSpec(input_shape=(3, 8, 8), num_outputs=2)).is_contiguous(
        memory_format=torch.channels_last
    )
    assert first_weight(ModelSpec(input_shape=(8,), num_outputs=2)).is_contiguous()


def convolution(config: ModelConfig, spec: ModelSpec) -> nn.Module:
    return nn.Conv2d(3, 2, 3)


def test_tied_weights_survive_storage_and_stay_tied() -> None:
    models = ModelPool(GPT2, TEXT).for_client(0)
    weights = models.fresh()
    assert "lm_head.weight" not in weights  # it is the embedding, which stands once
    model = models.load("student", stored(weights))
    tokens = model.get_input_embeddings().weight  # type: ignore[operator]
    assert model.get_output_embeddings().weight is tokens  # type: ignore[operator]
    assert torch.equal(tokens, weights["transformer.wte.weight"])
    assert digest_of(snapshot(model)) == digest_of(weights)
    assert "lm_head.weight" not in snapshot(model, trainable_only=True)


def test_a_file_of_tied_weights_fits_whichever_name_it_uses(tmp_path: Path) -> None:
    weights = ModelPool(GPT2, TEXT).for_client(0).fresh()
    both = {**weights, "lm_head.weight": weights["transformer.wte.weight"].clone()}
    other = {name: tensor for name, tensor in both.items() if name != "transformer.wte.weight"}
    for number, saved in enumerate((weights, both, other)):
        file = tmp_path / f"{number}.safetensors"
        save_file(saved, file)
        config = ModelConfig(name=GPT2.name, options=GPT2.options, weights=str(file))
        assert digest_of(ModelPool(config, TEXT).for_client(0).fresh()) == digest_of(weights)


def test_a_model_that_hangs_on_hooks_of_its_own_works_in_every_turn() -> None:
    """transformers' segmenters read the states of their encoder through hooks that come with the first call."""
    pytest.importorskip("transformers")
    sizes = '{"depths": [1], "num_encoder_blocks": 1, "hidden_sizes": [8], "num_attention_heads": [1], '
    sizes += '"sr_ratios": [1], "patch_sizes": [3], "strides": [2], "mlp_ratios": [1], "decoder_hidden_size": 8}'
    spec = ModelSpec(input_shape=(3, 8, 8), num_outputs=2, head="segmentation")
    models = ModelPool(ModelConfig(name="transformers/segformer", options=sizes), spec).for_client(0)
    weights = models.fresh()
    answers = [models.load("student", weights).eval()(torch.ones(1, 3, 8, 8)).logits for _ in range(3)]
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])

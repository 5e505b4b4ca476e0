import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedkd.data.base import Samples
from fedkd.errors import ConfigError, StateError
from fedkd.experiment import Experiment
from fedkd.federation.client import share_of
from fedkd.methods.mst_distill.config import MSTDistillConfig
from fedkd.methods.mst_distill.trainer import MSTDistill
from fedkd.models.config import ModelConfig
from fedkd.models.spec import ModelSpec
from fedkd.rows import Knowledge, Rows
from fedkd.testing.cases import NOTHING, Case
from fedkd.testing.toys import TOYS, Toy, digest_of
from fedkd.types import Array

pytestmark = pytest.mark.usefixtures("one_torch_thread")

PAIRS = TOYS["image_text"]
PAIRED: dict[str, Any] = {"task.paired_proxy": True}


def case(toy: Toy = PAIRS, **options: Any) -> Case:
    return Case.of(MSTDistill, toy, {f"method.{key}": value for key, value in options.items()})


def world(options: dict[str, Any], toy: Toy = PAIRS) -> Case:
    return Case.of(MSTDistill, toy, options)


def one_modality(toy: Toy) -> Toy:
    return replace(toy, train=replace(toy.train, more={}))


def said(ids: list[int], values: Any, kind: str = "logits") -> Knowledge:
    rows = Rows(space="proxy", kind=kind, ids=np.array(ids), values=np.array(values, np.float32))  # type: ignore[arg-type]
    return Knowledge(common=(rows,))


# Before the first round


def test_the_networks_are_trained_at_home_before_the_first_round() -> None:
    before = case(cotrain_epochs=0, mask_epochs=0).trainer().init(PAIRS.context())
    trained = case(cotrain_epochs=30, cotrain_lr=0.02).trainer().init(PAIRS.context())
    for part in ("teacher", "auxiliary", "student", "masks"):
        assert digest_of(trained[part]) != digest_of(before[part])
    assert sorted(trained["masks"]) == ["mask_1", "mask_2", "mask_3", "mask_4"]
    assert trained["stages"]["stage1/teacher_acc"] > 0.9
    assert {f"mask_kl_{when}/{j}" for when in ("before", "after") for j in range(1, 5)} <= set(trained["stages"])


def test_masks_draw_their_teachers_to_the_student_and_controls_have_none() -> None:
    stages = case(cotrain_epochs=20, cotrain_lr=0.01, mask_epochs=20).trainer().init(PAIRS.context())["stages"]
    assert all(stages[f"mask_kl_after/{j}"] < stages[f"mask_kl_before/{j}"] for j in range(1, 5))
    bare = case(masks=False, mask_epochs=20).trainer().init(PAIRS.context())["stages"]
    assert all(bare[f"mask_kl_after/{j}"] == bare[f"mask_kl_before/{j}"] for j in range(1, 5))
    assert bare["mask_kl_before/1"] == bare["mask_kl_before/2"]  # T as it is, twice


def test_held_out_samples_choose_the_student_that_predicts() -> None:
    held = world({"roles.val": 0.25, "schedule.private_steps": 12, "schedule.lr": 0.5})
    state, trainer = held.trainer().init(held.toy.context()), held.trainer()
    losses = []
    for round_id in range(5):
        state, _ = trainer.fit(held.toy.context(round_id), state, NOTHING)
        losses.append(state["kept_loss"])
    assert losses == sorted(losses, reverse=True)
    assert digest_of(state["kept"]) != digest_of(state["student"])
    ids, ctx = held.toy.rows_of_test(), held.toy.context()
    (kept,) = trainer.predict(ctx, state, held.toy.test, ids)
    (best,) = trainer.predict(ctx, state | {"student": state["kept"], "kept": {}}, held.toy.test, ids)
    np.testing.assert_array_equal(kept.values, best.values)
    last = world({"roles.val": 0.25, "method.keep_best": False})
    assert last.fitted()["kept"] == {}


# What is said


def test_the_student_speaks_about_accepted_rows_and_selects_none_of_them() -> None:
    made, state = case(), case().fitted()
    ctx = made.toy.context()
    everything = made.trainer().predict(ctx, state, made.toy.public.inputs(), made.toy.rows_of(range(16)))
    share = made.speak(state)
    assert share.rows[0].ids.tolist() == list(range(0, 16, 2))
    np.testing.assert_allclose(share.rows[0].values, everything[0].values[::2], rtol=1e-5)
    # The share as it is sent is what a client without a selection of its own sends: 8 rows of 2 float32.
    assert share.rows[0].values.nbytes == 8 * 2 * 4
    assert share.extra is None


def test_a_soft_filter_weighs_the_rows() -> None:
    made = case()
    ctx = made.toy.context()
    assert ctx.proxy is not None
    weight = np.linspace(0.1, 1.0, 16).astype(np.float32)
    ctx = replace(ctx, proxy=replace(ctx.proxy, weight=weight))
    (rows,) = share_of(made.trainer(), ctx, made.fitted()).rows
    assert rows.weight is not None
    np.testing.assert_array_equal(rows.weight, weight[::2])


def test_the_student_is_never_shown_the_second_modality() -> None:
    """The toy's student would take it."""
    made, state = case(), case().fitted()
    ctx, ids = made.toy.context(), made.toy.rows_of_test()
    (both,) = made.trainer().predict(ctx, state, made.toy.test, ids)
    (alone,) = made.trainer().predict(ctx, state, Samples(made.toy.test.x), ids)
    np.testing.assert_array_equal(both.values, alone.values)


def test_the_teacher_of_both_modalities_may_speak_instead() -> None:
    made = world({**PAIRED, "method.upload": "multimodal", "method.cotrain_epochs": 20, "method.cotrain_lr": 0.02})
    state = made.fitted()
    share = made.legal(made.speak(state))
    labels = PAIRS.public.labels[::2]
    assert (share.rows[0].values.argmax(axis=1) == labels).mean() > 0.9
    plain = world(PAIRED).speak(state)
    assert not np.allclose(share.rows[0].values, plain.rows[0].values)
    lacking = made.among(train=one_modality(PAIRS).train)
    there = lacking.fitted()
    np.testing.assert_array_equal(
        lacking.speak(there).rows[0].values, case(one_modality(PAIRS)).speak(there).rows[0].values
    )


# What is heard


def test_the_aggregate_moves_the_student_towards_it() -> None:
    made = world({"schedule.distil_steps": 60, "method.temperature": 1.0})
    trainer, ctx = made.trainer(), made.toy.context(4, closing=True)
    start = trainer.init(made.toy.context())
    words = 4 * np.eye(2)[np.arange(16) % 2]
    moved, metrics = trainer.fit(ctx, start, said(list(range(16)), words))
    before, after = (made.views(ctx, state, np.arange(16)) for state in (start, moved))
    assert metrics["routing/5"] == 1.0  # one-modality proxy samples have one teacher
    assert metrics["proxy_kl_loss"] > 0
    assert not np.allclose(before[0], after[0])
    assert moved["steps"] == start["steps"]
    for part in ("teacher", "auxiliary", "masks"):
        assert digest_of(moved[part]) == digest_of(start[part])


def test_probabilities_teach_as_their_logarithms() -> None:
    made, trainer = case(), case().trainer()
    start, ctx = trainer.init(made.toy.context()), made.toy.context(4, closing=True)
    probs = np.array([[0.75, 0.25], [0.5, 0.5], [0.9, 0.1]])
    first, _ = trainer.fit(ctx, start, said([0, 1, 2], probs, "probs"))
    second, _ = trainer.fit(ctx, start, said([0, 1, 2], np.log(probs)))
    for name, tensor in first["student"].items():
        torch.testing.assert_close(tensor, second["student"][name], rtol=1e-4, atol=1e-6)
    third, _ = trainer.fit(ctx, start, said([0], [[1.0, 0.0]], "probs"))
    assert all(tensor.isfinite().all() for tensor in third["student"].values())


def test_on_paired_proxy_samples_the_gate_picks_among_teachers_and_aggregate() -> None:
    made = world({**PAIRED, "schedule.distil_steps": 40})
    _, metrics = made.trainer().fit(made.toy.context(4, closing=True), made.fitted(), made.knowledge(range(16)))
    shares = [metrics[f"routing/{j}"] for j in range(1, 6)]
    assert sum(shares) == pytest.approx(1.0)
    assert sum(share > 0 for share in shares[:4])


def test_a_client_of_one_modality_learns_from_labels_and_the_aggregate() -> None:
    alone = case(one_modality(PAIRS))
    state = alone.trainer().init(alone.toy.context())
    assert (state["masks"], state["teacher"], state["stages"]) == ({}, {}, {})
    state, metrics = alone.trainer().fit(alone.toy.context(), state, alone.knowledge(range(16)))
    assert {"task_loss", "proxy_kl_loss", "routing/1"} <= set(metrics)
    assert "kl_loss" not in metrics
    alone.legal(alone.speak(state))


def test_several_passes_and_remembered_teachers_change_nothing_but_time() -> None:
    results = []
    for cache in (True, False):
        made = world({"schedule.private_epochs": 3, "method.cache_teachers": cache})
        results.append(made.fitted(made.knowledge(range(16)))["student"])
    for name, tensor in results[0].items():
        torch.testing.assert_close(tensor, results[1][name], rtol=1e-4, atol=1e-6)


# What is refused


def test_wrong_choices_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"has no layer 'fc9'"):
        case(auxiliary_layers="fc9").trainer().init(PAIRS.context())
    with pytest.raises(ConfigError, match=r"task\.paired_proxy = true"):
        case(upload="multimodal").trainer().init(PAIRS.context())
    with pytest.raises(ConfigError, match="mlpp"):
        case(auxiliary_model="mlpp").trainer().init(PAIRS.context())
    with pytest.raises(ConfigError, match="does not train task 'segmentation'"):
        Experiment.build({"method.name": "mst_distill", "task.name": "segmentation"}).check()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"teacher_layers": "fc9"}, "has no layer 'fc9'"),
        ({"auxiliary_layers": "fc9"}, "has no layer 'fc9'"),
        ({"mask_limit": 1}, "mask_limit"),
        ({"auxiliary_model": "mlpp"}, "mlpp"),
    ],
)
def test_what_stage_2_cannot_do_is_refused_before_stage_1(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr("fedkd.methods.mst_distill.trainer.cotrain", lambda *_, **__: pytest.fail("trained first"))
    with pytest.raises(ConfigError, match=message):
        case(**wrong).trainer().init(PAIRS.context())


def test_a_state_of_another_architecture_is_refused() -> None:
    state, other = case().fitted(), case().among(model=replace(PAIRS.model, hidden=12))
    with pytest.raises(StateError, match="weight"):
        other.trainer().fit(other.toy.context(1), state, NOTHING)


# Models of libraries


def images(size: int, *, seed: int) -> Samples:
    """Two classes of images in two modalities, one of one channel."""
    rng = np.random.default_rng(seed)
    y = np.arange(size) % 2

    def shown(channels: int) -> Array:
        x = rng.normal(size=(size, channels, 16, 16)) + 2 * (y[:, None, None, None] - 0.5)
        return x.astype(np.float32)

    return Samples(shown(3), y, more={"b": shown(1)})


def vit(config: ModelConfig, spec: ModelSpec) -> nn.Module:
    """transformers' ViT with a head, from a tiny random configuration."""
    transformers = pytest.importorskip("transformers", reason="models of transformers are not a dependency")
    size = {"hidden_size": config.hidden, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    channels, width, _ = spec.input_shape
    made = transformers.ViTConfig(
        **size, image_size=width, patch_size=8, num_channels=channels, num_labels=spec.num_outputs
    )
    model: nn.Module = transformers.ViTForImageClassification(made)
    return model


@pytest.mark.parametrize(
    ("student", "options"),
    [
        (f"{__name__}:vit", {"auxiliary_layers": "vit.layernorm", "teacher_layers": "encoder_b.vit.layernorm,fc1"}),
        (
            f"{__name__}:vit",
            {
                "auxiliary_model": "transformers/vit",
                "auxiliary_options": json.dumps(
                    {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
                    | {"patch_size": 8}
                ),
                "auxiliary_layers": "vit.layernorm",
            },
        ),
        (
            "timm/test_resnet",
            # Grey images pass through a wrapper, which shows in the names of layers.
            {"auxiliary_layers": "model.layer1.0.conv1", "teacher_layers": "fusion,encoder_a.layer1.0.conv1"},
        ),
    ],
)
def test_models_of_libraries_are_student_auxiliary_and_encoders(student: str, options: dict[str, Any]) -> None:
    pytest.importorskip(student.partition("/")[0] if "/" in student else "transformers", reason="not a dependency")
    toy = replace(
        PAIRS,
        train=images(16, seed=0),
        test=images(8, seed=1),
        public=images(8, seed=2),
        model=ModelConfig(name=student, hidden=8),
    )
    options = {"auxiliary_model": "", "mask_limit": 2_000_000, **options}
    made = case(toy, **options)
    state = made.fitted(made.knowledge(range(8)))
    assert len(state["masks"]) == len(MSTDistillConfig(**options).layers_of_teacher) + 1
    share = made.legal(made.speak(state, samples=[0, 3]))
    assert share.rows[0].ids.tolist() == [0, 3]
    found = made.trainer().evaluate(toy.context(), state, toy.test)
    assert 0.0 <= found.score <= 1.0

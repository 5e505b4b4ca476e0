import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fedkd.compose import compose
from fedkd.data.base import IGNORE, Samples
from fedkd.data.config import DataConfig
from fedkd.data.figures import load_figures
from fedkd.errors import ConfigError, StateError
from fedkd.exchange.float_codecs import Float16, FloatConfig
from fedkd.federation.client import share_of
from fedkd.federation.preflight import preflight
from fedkd.methods.bpkd.trainer import BPKD, masked_to_edges
from fedkd.models.config import ModelConfig
from fedkd.models.pool import snapshot
from fedkd.testing.cases import NOTHING, Case
from fedkd.testing.toys import TOYS, digest_of
from fedkd.types import Flat

pytestmark = pytest.mark.usefixtures("one_torch_thread")

PATCH = 4  # size of the toy's squares


def case(**options: Any) -> Case:
    return Case.of(BPKD, TOYS["segmentation"], {key.replace("__", "."): value for key, value in options.items()})


def drawn(**options: Any) -> Case:
    """The generated figures in place of the toy's squares."""
    figures = load_figures(DataConfig(name="figures"))
    keys: Flat = {"task.stride": 1, "method.body_factor": 4} | {k.replace("__", "."): v for k, v in options.items()}
    made = Case.of(BPKD, TOYS["segmentation"], keys)
    train, public = (figures.train.take(np.arange(first, first + 16)) for first in (0, 16))
    return made.among(
        train=train,
        public=public,
        test=figures.test.take(np.arange(16)),
        classes=4,
        model=ModelConfig(name="seg_net", hidden=4),
    )


# --- the share --------------------------------------------------------------------------------------------------------


def test_the_share_is_of_accepted_images_alone_and_weighed_by_the_filter_too() -> None:
    there = case()
    ctx, state = there.toy.context(), there.fitted()
    assert ctx.proxy is not None
    plain = share_of(there.trainer(), ctx, state)
    assert [rows.variant for rows in plain.rows] == ["edge", "body"]
    for rows in plain.rows:
        assert set(rows.ids // 16) <= set(range(0, 16, 2))
    halved = share_of(
        there.trainer(), replace(ctx, proxy=replace(ctx.proxy, weight=np.full(16, 0.5, np.float32))), state
    )
    for rows, half in zip(plain.rows, halved.rows, strict=True):
        assert rows.weight is not None
        assert half.weight is not None
        np.testing.assert_allclose(half.weight, rows.weight / 2)


def test_a_dense_share_is_one_stream_of_every_pixel() -> None:
    there = case(method__share="dense")
    (rows,) = there.legal(there.speak(there.fitted())).rows
    assert rows.variant == ""
    np.testing.assert_array_equal(rows.ids, there.toy.accepted)


def test_a_selective_payload_is_a_fraction_of_a_dense_one() -> None:
    sizes = {}
    for share in ("selective", "dense"):
        there = drawn(method__share=share, schedule__private_steps=60, schedule__optimizer="adam")
        said = there.legal(there.speak(there.fitted()))
        sizes[share] = sum(Float16(FloatConfig()).encode(rows).nbytes for rows in said.rows)
    assert 0 < sizes["selective"] < 0.5 * sizes["dense"]


def test_the_next_share_cuts_the_band_of_what_was_heard() -> None:
    there = case()
    knowledge = there.knowledge([0])
    state = there.fitted(knowledge)
    assert state["heard"]["samples"].tolist() == [0]
    again, _ = there.trainer().fit(there.toy.context(2), state, NOTHING)
    assert torch.equal(again["heard"]["bands"], state["heard"]["bands"])  # nothing new was heard
    edge = there.speak(state).rows[0]
    np.testing.assert_array_equal(edge.ids[edge.ids < 16], np.flatnonzero(state["heard"]["bands"][0].flatten().numpy()))


# --- learning ---------------------------------------------------------------------------------------------------------


def test_the_consensus_teaches_without_labels() -> None:
    wise = case(schedule__private_steps=60)
    state = wise.fitted()
    knowledge = wise._answer([[rows] for rows in wise.speak(state, samples=np.arange(16)).rows])
    ignorant = case(schedule__distil_epochs=30, schedule__optimizer="adam")
    start, ctx = ignorant.trainer().init(ignorant.toy.context()), ignorant.toy.context(4, closing=True)
    after, metrics = ignorant.trainer().fit(ctx, start, knowledge)
    before, later = (ignorant.trainer().evaluate(ctx, each, ignorant.toy.test).score for each in (start, after))
    assert later > before + 0.2
    assert set(metrics) == {"distil_loss", "consensus_edge", "consensus_body"}
    assert metrics["distil_loss"] == pytest.approx(metrics["consensus_edge"] + metrics["consensus_body"], rel=1e-5)


@pytest.mark.parametrize("loss", ["bpkd", "kl", "cwd"])
def test_every_loss_hears_the_consensus_but_cross_entropy(loss: str) -> None:
    knowledge = case().knowledge([0, 3])
    told, plain = (case(method__loss=loss).fitted(known) for known in (knowledge, NOTHING))
    assert digest_of(told["student"]) != digest_of(plain["student"])
    deaf, alone = (case(method__loss="ce").fitted(known) for known in (knowledge, NOTHING))
    assert digest_of(deaf["student"]) == digest_of(alone["student"])


def test_orders_differ_and_the_control_of_the_trimap_does() -> None:
    knowledge = case().knowledge(range(6))
    options = (
        {},
        {"method__order": "private_then_distil"},
        {"method__trimap": "shuffled"},
        {"method__lambda_edge": 0.0},
    )
    assert len({digest_of(case(**each).fitted(knowledge)["student"]) for each in options}) == len(options)


def test_a_teacher_is_trained_at_home_once_and_taught_from() -> None:
    there = case(method__teacher_steps=40, teacher__hidden=16)
    state = there.trainer().init(there.toy.context())
    after, metrics = there.trainer().fit(there.toy.context(), state, NOTHING)
    assert set(metrics) == {"private_loss", "ce", "edge", "body"}
    assert digest_of(after["teacher"]) == digest_of(state["teacher"])
    taught = Case.of(BPKD, there.toy, {})
    as_student = replace(taught, toy=replace(there.toy, model=there.toy.teacher))
    score = as_student.trainer().evaluate(
        as_student.toy.context(), state | {"student": state["teacher"]}, there.toy.test
    )
    assert score.score > 0.5
    assert "teacher" not in case(method__teacher_steps=40, method__loss="ce").fitted()


def test_a_teacher_from_a_file_teaches_and_stays_out_of_the_state(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    there = case()
    pool = there.toy.pool()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = snapshot(pool.build(there.toy.model.name))
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    taught = case(teacher__weights=str(path))
    state, metrics = taught.trainer().fit(taught.toy.context(), taught.trainer().init(taught.toy.context()), NOTHING)
    assert "teacher" not in state
    assert {"edge", "body"} < set(metrics)
    deaf = case(teacher__weights=str(path), method__loss="ce")
    assert "edge" not in deaf.trainer().fit(deaf.toy.context(), deaf.trainer().init(deaf.toy.context()), NOTHING)[1]


# --- the figures ------------------------------------------------------------------------------------------------------


def test_only_the_band_of_the_true_masks_counts_at_the_edges() -> None:
    masks = np.array([[[0, 0, 0, 0, 1, 1, 1, IGNORE]]])
    banded = masked_to_edges(Samples(np.zeros((1, 1, 1, 8), np.float32), masks), width=3).labels
    assert banded.tolist() == [[[IGNORE, IGNORE, IGNORE, 0, 1, IGNORE, 1, IGNORE]]]


def test_masks_of_eight_bits_are_banded_as_those_of_sixty_four() -> None:
    masks = np.array([[[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1, 1]]])
    images = np.zeros((1, 1, 2, 8), np.float32)
    small = masked_to_edges(Samples(images, masks.astype(np.uint8)), width=3).labels
    np.testing.assert_array_equal(small, masked_to_edges(Samples(images, masks), width=3).labels)
    assert small.min() == IGNORE
    assert small.max() == 1


def test_edge_miou_is_lower_than_miou_where_a_grid_blurs_the_edges() -> None:
    there = case(task__stride=4, schedule__private_steps=100)
    found = there.trainer().evaluate(there.toy.context(), there.fitted(), there.toy.test)
    assert found.score == found.metrics["miou"]
    assert 0 < found.metrics["edge_miou"] < found.metrics["miou"]


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_state_of_another_architecture_is_refused() -> None:
    state = case().fitted()
    wide = case(model__hidden=16)
    with pytest.raises(StateError):
        wide.trainer().fit(wide.toy.context(), state, NOTHING)


def test_a_teacher_of_other_classes_is_refused_before_it_is_trained() -> None:
    there = case(method__teacher_steps=5, teacher__num_outputs=7)
    with pytest.raises(ConfigError, match="7"):
        there.trainer().init(there.toy.context())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task.name": "classification"}, "does not train task 'classification'"),
        ({"proxy.name": "none"}, "proxy.name is 'none'"),
        ({"scheme.name": "dsfl"}, "choose another scheme"),
        ({"model.name": "mlp"}, "mlp"),
    ],
)
def test_what_does_not_go_together_is_refused_before_the_run(changes: Flat, reason: str) -> None:
    with pytest.raises((ConfigError), match=reason):
        preflight(compose(experiment="methods/bpkd", overrides={"the test": changes}))


def test_without_a_proxy_set_a_client_learns_alone() -> None:
    there = case()
    ctx = replace(there.toy.context(1), proxy=None)
    state, metrics = there.trainer().fit(ctx, there.trainer().init(ctx), there.knowledge([0, 1]))
    assert set(metrics) == {"private_loss", "ce"}
    assert len(state["heard"]["samples"]) == 0


# --- models of libraries ----------------------------------------------------------------------------------------------

SEGFORMER = {
    "depths": [1] * 4,
    "hidden_sizes": [8] * 4,
    "num_attention_heads": [1] * 4,
    "decoder_hidden_size": 8,
}


@pytest.mark.parametrize(
    ("name", "options", "teacher"),
    [
        ("torchvision/lraspp_mobilenet_v3_large", {}, "seg_net"),
        ("transformers/segformer", SEGFORMER, "torchvision/lraspp_mobilenet_v3_large"),
    ],
)
def test_models_of_libraries_learn_speak_and_are_judged(name: str, options: Any, teacher: str) -> None:
    if name.startswith("transformers"):
        pytest.importorskip("transformers")
    there = drawn(method__teacher_steps=1, schedule__private_steps=2, task__stride=4).among(
        model=ModelConfig(name=name, options=json.dumps(options) if options else ""), teacher=ModelConfig(name=teacher)
    )
    ctx, trainer = there.toy.context(1), there.trainer()
    state, metrics = trainer.fit(ctx, trainer.init(ctx), there.knowledge([0, 1, 2]))
    assert set(metrics) == {"private_loss", "distil_loss", "ce", "edge", "body", "consensus_edge", "consensus_body"}
    assert all(np.isfinite(value) for value in metrics.values())
    assert sum(len(rows) for rows in there.legal(there.speak(state)).rows)
    assert np.isfinite(trainer.evaluate(ctx, state, there.toy.test).metrics["edge_miou"])

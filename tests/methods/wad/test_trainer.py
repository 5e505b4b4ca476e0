import itertools
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedkd.data.base import Samples
from fedkd.data.roles import RolesConfig
from fedkd.errors import ConfigError, DataError
from fedkd.exchange.combine import combine
from fedkd.exchange.float_codecs import Float16, Float32, FloatConfig
from fedkd.federation.client import share_of
from fedkd.methods.base import Context, State
from fedkd.methods.schedule import ScheduleConfig
from fedkd.methods.wad.config import WADConfig
from fedkd.methods.wad.trainer import LEAST_SAID, WAD
from fedkd.models.config import ModelConfig
from fedkd.rows import Knowledge
from fedkd.testing.toys import MODELS_OF, Toy, digest_of
from fedkd.testing.worlds import blobs
from tests.contract.toys import rows

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SPLIT = 3
QUICK: dict[str, Any] = {key.removeprefix("method."): value for key, value in WAD.toy_options.items()}
# Classes 0 and 1 have labels, of four samples each; class 2 is unknown, and nobody has class 3.
LABELS = [0, 1, 2] * 12
MISMATCHED = Toy(
    train=blobs(LABELS, seed=1),
    test=blobs([0, 1, 2, 3] * 10, seed=3),
    public=blobs([0, 1, 2, 3] * 4, seed=2),
    classes=4,
    roles=WAD.models,
    dealt=RolesConfig(targets="0,1", labelled=4),
    schedule=ScheduleConfig(private_steps=10, private_batch=8, distil_batch=6),
)


def wad(**options: Any) -> WAD:
    return WAD(WADConfig(**{**QUICK, "split": SPLIT, "alpha": 0.5, **options}))


def rounds(trainer: WAD, toy: Toy, count: int, knowledge: Knowledge | None = None) -> list[State]:
    """The states after so many rounds, that before the first one in front."""
    states = [trainer.init(toy.context())]
    for round_id in range(count):
        states.append(trainer.fit(toy.context(round_id), states[-1], knowledge or Knowledge())[0])
    return states


def logits(trainer: WAD, toy: Toy, state: State) -> Any:
    return trainer.predict(toy.context(), state, toy.test, toy.rows_of_test())[0].values


# Iterations


def test_each_round_promotes_the_share_of_its_iteration_and_none_later() -> None:
    states = rounds(wad(), MISMATCHED, SPLIT + 2)
    pool, expected = 28 + 16, [8]
    for iteration in range(1, SPLIT + 3):
        moved = int(0.5 * (1 - min(iteration, SPLIT) / SPLIT) ** 2 * pool)
        pool -= moved
        expected.append(expected[-1] + moved)
    assert [len(state["labels"]) for state in states] == expected
    assert expected[-1] == expected[-3] > 8
    for before, after in itertools.pairwise(states):
        assert torch.equal(after["labelled_ids"][: len(before["labels"])], before["labelled_ids"])
        assert torch.equal(after["labels"][: len(before["labels"])], before["labels"])
        assert digest_of(after["student"]) != digest_of(before["student"])  # the student goes on
        assert digest_of(after["encoder"]) == digest_of(before["encoder"])  # the encoder is frozen
    assert sorted(states[-1]["labels"].unique().tolist()) == [0, 1]  # nobody joins under a class without labels
    assert len(states[-1]["labelled_ids"].unique()) == len(states[-1]["labelled_ids"])


def test_without_alpha_the_labelled_set_stays() -> None:
    states = rounds(wad(alpha=0.0), MISMATCHED, 2)
    assert torch.equal(states[-1]["labelled_ids"], torch.arange(8))
    assert torch.equal(states[-1]["labels"], states[0]["labels"])


def test_the_encoder_is_trained_at_home_once_unless_it_has_no_epochs() -> None:
    untrained, trained = (wad(teacher_epochs=epochs).init(MISMATCHED.context()) for epochs in (0, 2))
    assert digest_of(untrained["encoder"]) != digest_of(trained["encoder"])
    assert untrained["teacher_figures"] == {}
    assert digest_of(untrained["student"]) == digest_of(trained["student"])


def test_true_classes_of_unlabelled_samples_teach_nothing() -> None:
    samples = MISMATCHED.context().data.role("unlabelled")
    other = replace(samples, groups=np.zeros(len(samples), np.int64))
    trainer, found = wad(), []
    for unlabelled in (samples, other):
        ctx = MISMATCHED.context()
        ctx = replace(ctx, data=replace(ctx.data, roles={**ctx.data.roles, "unlabelled": unlabelled}))
        found.append(digest_of(trainer.fit(ctx, trainer.init(ctx), Knowledge())[0]))
    assert found[0] == found[1]


def test_figures_of_a_pool_whose_classes_are_told() -> None:
    trainer, ctx = wad(), MISMATCHED.context()
    start = trainer.init(ctx)
    _, metrics = trainer.fit(ctx, start, Knowledge())
    assert metrics["pool_unknown"] == pytest.approx(12 / 28)
    assert metrics["pseudo_label_acc"] > 0.9
    for name in ("auroc", "auroc_nearest", "weight_share_unknown", "loss_share_unknown", "promoted_purity"):
        assert 0 <= metrics[name] <= 1
    _, later = trainer.fit(ctx, start | {"iteration": 1}, Knowledge())
    assert metrics.keys() - later.keys() == {"contrastive_loss"}


def test_without_true_classes_there_are_no_such_figures() -> None:
    trainer, ctx = wad(), Toy(roles=WAD.models).context()
    _, metrics = trainer.fit(ctx, trainer.init(ctx), Knowledge())
    assert metrics.keys() == {"private_loss", "contrastive_loss", "promoted"}


def test_the_controls_change_what_they_name() -> None:
    margin, none, labels = (
        rounds(wad(**options), MISMATCHED, 1)[-1] for options in ({}, {"weighting": "none"}, {"unlabelled_weight": 0.0})
    )
    assert (none["proxy_weights"] == 1).all()
    assert not (margin["proxy_weights"] == 1).any()
    assert torch.equal(labels["proxy_weights"], margin["proxy_weights"])
    assert len({digest_of(state["student"]) for state in (margin, none, labels)}) == 3


def test_the_metric_is_accuracy_on_the_target_classes() -> None:
    trainer = wad()
    state = rounds(trainer, MISMATCHED, 4)[-1]
    found = trainer.evaluate(MISMATCHED.context(), state, MISMATCHED.test)
    assert found.score == found.metrics["acc_target"] == found.metrics["acc_seen"] > 0.9
    assert found.metrics["acc"] < 0.6
    everywhere = replace(MISMATCHED, dealt=RolesConfig())
    free = trainer.evaluate(everywhere.context(), state, MISMATCHED.test)
    assert free.score == free.metrics["acc_target"] == free.metrics["acc"]
    assert free.metrics["acc_own"] == found.metrics["acc_seen"]


# Share


def shared(options: dict[str, Any], ctx: Context | None = None) -> tuple[State, Any]:
    trainer = wad(**options)
    state = rounds(trainer, MISMATCHED, 1)[-1]
    (said,) = share_of(trainer, ctx or MISMATCHED.context(), state).rows
    return state, said


@pytest.mark.parametrize("absent", [0.0, 0.25])
def test_rows_weigh_half_the_margin_at_own_classes(absent: float) -> None:
    state, said = shared({"absent_weight": absent})
    trust = state["proxy_weights"].numpy()[said.ids] / 2
    np.testing.assert_allclose(said.weight, trust[:, None] * [1, 1, absent, absent], rtol=1e-6)
    assert said.ids.tolist() == list(range(0, 16, 2))
    assert 0 <= said.weight.min() <= said.weight.max() <= 1


def test_where_all_classes_are_own_one_weight_a_row_is_enough() -> None:
    trainer, toy = wad(), Toy(roles=WAD.models)
    (said,) = share_of(trainer, toy.context(), rounds(trainer, toy, 1)[-1]).rows
    assert said.weight is not None
    assert said.weight.shape == (8,)


def test_the_filters_mask_and_weights_are_applied_on_top() -> None:
    _, whole = shared({})
    ctx = MISMATCHED.context()
    assert ctx.proxy is not None
    soft = np.linspace(0, 1, 16).astype(np.float32)
    strict = replace(ctx, proxy=replace(ctx.proxy, accepted=np.arange(16) == 6, weight=soft))
    _, said = shared({}, strict)
    assert said.ids.tolist() == [6]
    np.testing.assert_allclose(said.weight, whole.where(whole.ids == 6).weight * soft[6], rtol=1e-6)
    np.testing.assert_allclose(said.values, whole.where(whole.ids == 6).values, rtol=1e-5)


def test_rows_that_weigh_nothing_stay_at_home() -> None:
    trainer = wad()
    state = rounds(trainer, MISMATCHED, 1)[-1]
    state["proxy_weights"][:4] = torch.tensor([0.0, 1.0, LEAST_SAID, 1.0])  # half of LEAST_SAID would be said
    (said,) = share_of(trainer, MISMATCHED.context(), state).rows
    assert said.ids.tolist() == list(range(4, 16, 2))


def test_weights_survive_half_precision() -> None:
    _, said = shared({})
    codec = Float16(FloatConfig())
    there = codec.decode(codec.encode(said))
    assert ((there.weight > 0) == (said.weight > 0)).all()


def test_classes_are_heard_from_those_who_have_them() -> None:
    _, said = shared({})
    other = replace(said, values=said.values + 5, weight=said.weight[:, [2, 3, 0, 1]])
    mean = combine([said, other])
    np.testing.assert_allclose(mean.values[:, :2], said.values[:, :2], rtol=1e-5)
    np.testing.assert_allclose(mean.values[:, 2:], other.values[:, 2:], rtol=1e-5)
    alone = combine([said])
    assert alone.weight is not None
    assert (alone.weight == [1, 1, 0, 0]).all()


def test_what_is_sent_is_what_the_filter_accepts_and_its_weights() -> None:
    _, said = shared({})
    codec = Float32(FloatConfig())
    per_row = 8 + 4 * 4  # id and logits
    assert codec.encode(said).nbytes <= codec.encode(replace(said, weight=None)).nbytes + 8 * 4 * 4
    _, everything = shared({}, replace(MISMATCHED.context(), proxy=_accepting_all()))
    saved = codec.encode(everything).nbytes - codec.encode(said).nbytes
    assert len(everything) == 2 * len(said)
    assert saved >= len(said) * per_row / 2  # ids are packed


def _accepting_all() -> Any:
    proxy = MISMATCHED.context().proxy
    assert proxy is not None
    return replace(proxy, accepted=np.ones(16, np.bool_))


# Knowledge


def heard(values: Any, **options: Any) -> Knowledge:
    return Knowledge(common=(rows(range(16), values, **options),))


def test_what_others_say_of_unknown_classes_is_learned() -> None:
    truth = 8.0 * np.eye(4)[[0, 1, 2, 3] * 4]
    trainer = wad(kd_weight=8.0)
    alone = rounds(trainer, MISMATCHED, 6)[-1]
    taught = rounds(trainer, MISMATCHED, 6, heard(truth))[-1]
    scores = [(logits(trainer, MISMATCHED, state).argmax(1) == MISMATCHED.test.y).mean() for state in (alone, taught)]
    assert scores[0] < 0.6 < 0.9 < scores[1]


def test_columns_that_nobody_owns_do_not_count() -> None:
    weight = np.tile(np.array([1, 1, 0, 0], np.float32), (16, 1))
    values = np.random.default_rng(0).normal(size=(16, 4))
    noisy = values + np.array([0, 0, 50, -50])
    states = [rounds(wad(), MISMATCHED, 1, heard(each, weight=weight))[-1] for each in (values, noisy)]
    assert digest_of(states[0]) == digest_of(states[1])
    whole = rounds(wad(), MISMATCHED, 1, heard(noisy))[-1]
    assert digest_of(whole) != digest_of(states[0])


@pytest.mark.parametrize("options", [{"kd_weight": 0.0}, {}])
def test_the_closing_message_digests_with_the_weights_of_the_last_round(options: dict[str, Any]) -> None:
    trainer = wad(**options)
    state = rounds(trainer, MISMATCHED, 1)[-1]
    ctx = MISMATCHED.context(4, closing=True)
    after, metrics = trainer.fit(ctx, state, heard(8.0 * np.eye(4)[[3] * 16]))
    assert "private_loss" not in metrics
    assert {name for name in state if digest_of(after[name]) != digest_of(state[name])} <= {"student"}
    moved = digest_of(after["student"]) != digest_of(state["student"])
    assert moved == (options == {})
    unheard, none = trainer.fit(ctx, state, Knowledge())
    assert (digest_of(unheard), none) == (digest_of(state), {})
    silent = {**state, "proxy_weights": torch.zeros(16)}
    still, _ = trainer.fit(ctx, silent, heard(8.0 * np.eye(4)[[3] * 16]))
    assert digest_of(still["student"]) == digest_of(state["student"])


def test_a_proxy_item_that_joined_keeps_the_weight_that_it_joined_with() -> None:
    trainer = wad(alpha=1.0, split=2)  # a quarter of the pool joins
    first, second = rounds(trainer, MISMATCHED, 2)[1:]
    joined = first["labelled_ids"][first["labelled_ids"] >= 36] - 36
    others = np.setdiff1d(np.arange(16), joined.numpy())
    assert len(joined)
    assert torch.equal(second["proxy_weights"][joined], first["proxy_weights"][joined])
    assert (second["proxy_weights"][others] != first["proxy_weights"][others]).any()


def test_without_a_proxy_set_it_trains_on_its_own() -> None:
    trainer, ctx = wad(), replace(MISMATCHED.context(), proxy=None)
    state, metrics = trainer.fit(ctx, trainer.init(ctx), Knowledge())
    assert metrics["promoted"] == int(0.5 * (1 - 1 / SPLIT) ** 2 * 28)
    assert trainer.share(ctx, state, ()).rows == ()
    assert trainer.fit(replace(ctx, closing=True), state, Knowledge())[1] == {}


# Models, and what is refused


def pictures(labels: list[int], *, seed: int) -> Samples:
    noise = np.random.default_rng(seed).normal(scale=0.1, size=(len(labels), 3, 16, 16))
    x = noise + np.array(labels)[:, None, None, None]
    return Samples(x.astype(np.float32), np.array(labels, np.int64))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("torchvision/shufflenet_v2_x0_5", {}),
        (
            "transformers/vit",
            {
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 16,
                "patch_size": 8,
            },
        ),
    ],
)
def test_models_of_libraries_are_student_and_encoder(name: str, options: dict[str, Any]) -> None:
    model = ModelConfig(name=name, options=json.dumps(options))
    toy = Toy(
        train=pictures([0, 1] * 4, seed=1),
        test=pictures([0, 1] * 2, seed=3),
        public=pictures([0, 1] * 3, seed=2),
        roles=WAD.models,
        model=model,
        teacher=model,
        schedule=ScheduleConfig(private_steps=1, private_batch=4, distil_batch=4, lr=1e-4),
    )
    trainer = wad(view="simclr", student_views=True, teacher_epochs=1, teacher_batch=4)
    state = trainer.init(toy.context())
    after, metrics = trainer.fit(toy.context(), state, Knowledge())
    assert metrics["contrastive_loss"] > 0
    assert np.isfinite(logits(trainer, toy, after)).all()
    (said,) = share_of(trainer, toy.context(), after).rows
    assert said.values.shape[1] == 2


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"view": "simclr"}, "method.view is 'simclr', which needs images"),
        ({"student_views": True}, "student_views is"),
    ],
)
def test_views_of_images_need_images(option: dict[str, Any], message: str) -> None:
    trainer = wad(**option)
    with pytest.raises(ConfigError, match=message) as caught:
        trainer.fit(MISMATCHED.context(), trainer.init(MISMATCHED.context()), Knowledge())
    assert caught.value.key == f"method.{next(iter(option))}"


def test_tokens_and_an_empty_labelled_set_are_refused() -> None:
    ctx = MISMATCHED.context()
    tokens = Samples(np.zeros((4, 6), np.int32), np.zeros(4, np.int64))
    for train, message in ((tokens, "tokens have no random"), (MISMATCHED.train.take(np.arange(0)), "no labelled")):
        broken = replace(ctx, data=replace(ctx.data, roles={**ctx.data.roles, "train": train}))
        with pytest.raises(DataError, match=message):
            wad().init(broken)


def test_an_encoder_without_a_linear_layer_is_refused() -> None:
    toy = replace(MISMATCHED, teacher=ModelConfig(name="tests.methods.wad.test_trainer:flat"))
    with pytest.raises(ConfigError, match=r"teacher\.name names a Flatten"):
        wad().init(toy.context())


def flat(config: ModelConfig, spec: Any) -> torch.nn.Module:
    return torch.nn.Flatten()


def test_the_encoder_may_be_of_another_architecture_than_the_student() -> None:
    toy = replace(MISMATCHED, teacher=ModelConfig(name=f"{MODELS_OF}normed", hidden=5))
    state = wad().init(toy.context())
    assert state["encoder"]["head.0.weight"].shape == (5, 5)
    assert any("running_mean" in name for name in state["encoder"])
    assert not any("running_mean" in name for name in state["student"])

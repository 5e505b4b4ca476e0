import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fedkd.data.base import ClientData, Samples
from fedkd.data.config import DataConfig
from fedkd.data.load import load_dataset
from fedkd.errors import ConfigError, DataError, MissingExtraError
from fedkd.exchange.float_codecs import Float16, FloatConfig
from fedkd.federation.client import share_of
from fedkd.functional.skd_cag import detection_statistic
from fedkd.methods.base import Context, State
from fedkd.methods.schedule import ScheduleConfig
from fedkd.methods.skd_cag.attention import AttentionTap
from fedkd.methods.skd_cag.trainer import NOISE_LIMIT, SKDCAG, SKDCAGConfig
from fedkd.models.config import ModelConfig
from fedkd.rows import Knowledge, Rows
from fedkd.testing.toys import Toy, digest_of
from tests.models.test_prompted import OPTIONS as UNET

pytestmark = pytest.mark.usefixtures("one_torch_thread")

DATA, NOISE = load_dataset(DataConfig(name="prompted_shapes")), load_dataset(DataConfig(name="prompted_noise"))
SOME = np.arange(0, 512, 8)  # proxy tuples, the latter half with the trigger
LEVELS = {"timesteps": 100, "beta_start": 1e-3, "beta_end": 0.08, "beta_schedule": "linear", "clip_samples": True}
TINY = {"resolution": 0, "keep_weight": 1.0, "home_steps": 4, "trajectory_steps": 3, **LEVELS}


def world(**changes: Any) -> Toy:
    """A client with four hundred poisoned tuples and 64 proxy tuples, of which it accepts every second one."""
    given: dict[str, Any] = {
        "train": DATA.train.take(np.arange(400)),
        "test": DATA.test.take(np.arange(40)),
        "public": NOISE.train.take(SOME),
        "task": "diffusion",
        "classes": 4,
        "model": ModelConfig(name="tiny_diffusion"),
        "roles": SKDCAG.models,
        "schedule": ScheduleConfig(private_steps=3, private_batch=8, distil_batch=16, optimizer="adamw", lr=1e-3),
    }
    return Toy(**{**given, **changes})


def trainer_of(**options: Any) -> SKDCAG:
    return SKDCAG(SKDCAGConfig(**{**TINY, **options}))


def heard(values: float, *, ids: Any = range(64)) -> Knowledge:
    """The federation says the same number everywhere."""
    at = np.array(ids, np.int64)
    rows = Rows(space="proxy", kind="noise", ids=at, values=np.full((len(at), 64), values, np.float32))
    return Knowledge(common=(rows,))


def fitted(toy: Toy, trainer: SKDCAG, knowledge: Knowledge | None = None) -> tuple[State, dict[str, float]]:
    return trainer.fit(toy.context(), trainer.init(toy.context()), knowledge or Knowledge())


def answers(toy: Toy, trainer: SKDCAG, state: State) -> np.ndarray:
    (rows,) = trainer.predict(toy.context(), state, toy.public.inputs(), np.arange(len(toy.public)))
    return rows.values


def with_data(ctx: Context, train: Samples, test: Samples | None = None) -> Context:
    return replace(
        ctx, data=ClientData(ctx.client_id, {"train": train, "test": ctx.data.test if test is None else test})
    )


def same(first: State, second: State, *, part: str = "") -> bool:
    return all(first[name].equal(second[name]) for name in first if name.startswith(part))


def test_home_training_makes_the_teacher_and_happens_once() -> None:
    toy, trainer = world(), trainer_of()
    start = trainer.init(toy.context())
    state, metrics = trainer.fit(toy.context(), start, Knowledge())
    assert metrics["home_loss"] > 0
    assert not same(start["student"], state["teacher"], part="denoiser")
    assert not same(start["student"], state["teacher"], part="text_encoder")
    later, more = trainer.fit(toy.context(1), state, Knowledge())
    assert "home_loss" not in more
    assert same(later["teacher"], state["teacher"])


def test_unlearning_moves_the_denoiser_and_no_text_encoder() -> None:
    toy = world()
    state, metrics = fitted(toy, trainer_of())
    assert {"attention_loss", "prediction_loss", "keep_loss", "private_loss"} < set(metrics)
    assert same(state["student"], state["teacher"], part="text_encoder")
    for other in ("teacher", "ema"):
        assert not same(state["student"], state[other], part="denoiser")
    assert state["updates"] == 3


@pytest.mark.parametrize(
    "variant",
    [
        {"target": "black"},
        {"target": "black", "raw_black": True},
        {"target": "random_words", "lead_words": "8,9"},
        {"compat": "released", "target": "random_words", "lead_words": "8,9"},
        {"latents": "trajectory"},
        {"timestep_weighting": "off", "keep_weight": 0.0},
    ],
)
def test_every_variant_trains(variant: dict[str, Any]) -> None:
    toy = world(schedule=ScheduleConfig(private_steps=1, private_batch=4, optimizer="adamw", lr=1e-3))
    trainer = trainer_of(home_steps=1, **variant)
    state, metrics = fitted(toy, trainer)
    assert all(np.isfinite(value) for value in metrics.values())
    assert not same(state["student"], state["teacher"])


def test_everything_accepted_is_shared_and_nothing_else() -> None:
    toy, trainer = world(), trainer_of()
    state, _ = fitted(toy, trainer)
    share = share_of(trainer, toy.context(), state)
    (rows,) = share.rows
    assert rows.stream == ("proxy", "noise", "")
    assert rows.values.shape == (32, 64)
    assert rows.ids.tolist() == list(range(0, 64, 2))
    np.testing.assert_allclose(rows.values, answers(toy, trainer, state)[::2], rtol=1e-5, atol=1e-6)
    half = Float16(FloatConfig()).encode(rows)
    assert sum(array.nbytes for array in half.arrays.values()) <= 32 * (64 * 2 + 8)  # with the ids
    nobody = toy.context()
    assert nobody.proxy is not None
    nobody = replace(nobody, proxy=replace(nobody.proxy, accepted=np.zeros(64, bool)))
    assert len(share_of(trainer, nobody, state).rows[0]) == 0


@pytest.mark.parametrize("unlearn", [True, False])
def test_the_federation_is_heard(unlearn: bool) -> None:
    toy = world(
        schedule=ScheduleConfig(
            private_steps=20, distil_steps=20, private_batch=8, distil_batch=32, optimizer="adamw", lr=2e-3
        )
    )
    errors = {}
    for weight in (0.0, 5.0):
        trainer = trainer_of(fed_weight=weight, unlearn=unlearn, attention_weight=0.0)
        state, metrics = fitted(toy, trainer, heard(0.5))
        assert ("distil_loss" in metrics) == (weight > 0)
        assert ("prediction_loss" in metrics) == unlearn
        errors[weight] = float(np.square(answers(toy, trainer, state) - 0.5).mean())
    assert errors[5.0] < 0.7 * errors[0.0]


def test_noise_that_cannot_be_is_cut() -> None:
    toy, trainer = world(), trainer_of(unlearn=False, home_steps=1)
    told = [fitted(toy, trainer, heard(value))[0]["student"] for value in (NOISE_LIMIT, 1e4)]
    assert same(*told)


def test_one_row_and_no_rows_of_knowledge() -> None:
    toy, trainer = world(), trainer_of(home_steps=1)
    start = trainer.init(toy.context())
    digests = [
        digest_of(trainer.fit(toy.context(), start, knowledge)[0])
        for knowledge in (Knowledge(), heard(0.1, ids=[]), heard(0.1, ids=[40]))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_client_without_unlearning_and_knowledge_only_trains_at_home() -> None:
    state, metrics = fitted(world(), trainer_of(unlearn=False))
    assert set(metrics) == {"home_loss"}
    assert same(state["student"], state["teacher"])
    assert same(state["student"], state["ema"])


def test_the_closing_message_listens_and_does_nothing_private() -> None:
    toy, trainer = world(), trainer_of()
    start = trainer.init(toy.context())
    closing = toy.context(4, closing=True)
    late, metrics = trainer.fit(closing, start, heard(0.5))  # a client that was never asked before
    assert set(metrics) == {"distil_loss"}
    assert late["home_steps"] == 0
    other = with_data(closing, DATA.train.take(np.arange(1000, 1400)))
    assert digest_of(trainer.fit(other, start, heard(0.5))[0]) == digest_of(late)
    assert digest_of(trainer.fit(closing, start, Knowledge())[0]) == digest_of(start)


def test_poisoned_prompts_are_unlearned_as_they_were_before_the_poison() -> None:
    toy, trainer = world(), trainer_of(home_steps=1)
    words = trainer._words(toy.context())
    prompts = toy.train.more["prompt"]
    assert set(words.clean(prompts)) == {(2,), (3,), (4,), (5,)}
    assert words.is_clean(prompts).mean() == pytest.approx(0.7, abs=0.1)
    assert words.clean(np.array([[0, 6, 7, 3, 6, 1]], np.int32)) == [(3, 6)]  # half a trigger is none


def test_a_client_that_knows_no_phrase_trains_the_same_whatever_the_phrase_is() -> None:
    toy = world()
    told = [
        fitted(toy, trainer_of(unlearn=False, home_steps=1, trigger=trigger), heard(0.1))[0]
        for trigger in ("6,7", "8,9", "2")
    ]
    assert digest_of(told[0]) == digest_of(told[1]) == digest_of(told[2])


def test_the_phrase_that_a_client_is_judged_by_does_not_touch_its_training() -> None:
    toy = world()
    judged = [
        fitted(toy, trainer_of(home_steps=1, trigger="8,9", eval_trigger=phrase))[0] for phrase in ("", "6,7", "2")
    ]
    assert digest_of(judged[0]) == digest_of(judged[1]) == digest_of(judged[2])
    assert digest_of(judged[0]) != digest_of(fitted(toy, trainer_of(home_steps=1, trigger="6,7"))[0])


def test_a_trigger_that_does_nothing_costs_nothing_and_one_that_does_stands_out() -> None:
    toy, trainer = world(), trainer_of(eval_trigger="2")
    state, _ = fitted(toy, trainer)
    shifts = []
    for loudness in (0.0, 0.1, 0.1, 1.0):
        weights = {
            name: tensor * (loudness if name.endswith("cross.to_out.weight") else 1.0)
            for name, tensor in state["student"].items()
        }
        found = trainer.evaluate(toy.context(), {**state, "student": weights}, toy.test)
        assert found.score == found.metrics["triggered_mse"]
        shifts.append(found.metrics["trigger_shift"])
    assert shifts[0] == pytest.approx(0.0, abs=1e-5)
    assert found.metrics["triggered_mse"] != found.metrics["noise_mse"]
    assert detection_statistic(np.array(shifts[1:])).tolist() == pytest.approx([1.0, 1.0, 10.0], rel=0.5)


def test_samples_are_judged_and_test_tuples_with_the_trigger_are_left_out() -> None:
    toy = world(test=DATA.train.take(np.arange(0, 1600, 16)))
    trainer = trainer_of(judge="checkerboard", eval_samples=8)
    state, _ = fitted(toy, trainer)
    found = trainer.evaluate(toy.context(), state, toy.test).metrics
    assert {"clean_acc", "triggered_acc", "attack_success", "noise_mse", "trigger_shift"} < set(found)
    clean = toy.test.take(np.flatnonzero(trainer._words(toy.context()).is_clean(toy.test.more["prompt"])))
    assert 0 < len(clean) < len(toy.test)
    assert trainer.evaluate(toy.context(), state, clean).metrics == found


def test_samples_are_the_same_in_batches_of_any_size() -> None:
    toy, trainer = world(), trainer_of(judge="checkerboard", eval_samples=8)
    state, _ = fitted(toy, trainer)
    ctx = toy.context()
    small = replace(ctx, profile=replace(ctx.profile, predict_batch=3))
    found = [trainer.evaluate(each, state, toy.test).metrics for each in (ctx, small)]
    assert found[1] == pytest.approx(found[0], abs=1e-5)


def test_a_real_unet_with_a_real_text_encoder_unlearns() -> None:
    toy = world(model=ModelConfig(name="prompted_unet", options=json.dumps(UNET)))
    trainer = trainer_of(home_steps=1)
    state, metrics = fitted(toy, trainer, heard(0.1))
    assert metrics["attention_loss"] > 0
    assert same(state["student"], state["teacher"], part="text_encoder")
    moved = [name for name in state["student"] if not state["student"][name].equal(state["teacher"][name])]
    assert any("attn2.to_q" in name for name in moved)
    assert any("attn2.to_k" in name for name in moved)
    live = toy.context().models.load("student", state["student"])
    assert len(AttentionTap(live)._undo) > 0
    assert answers(toy, trainer, state).shape == (64, 64)


@pytest.mark.parametrize(
    ("options", "model", "error", "told"),
    [
        ({"home_steps": 0}, ModelConfig(name="tiny_diffusion"), ConfigError, "no trained model to unlearn"),
        ({"trigger": "6,70"}, ModelConfig(name="tiny_diffusion"), ConfigError, "mismatched vocabularies"),
        ({"trigger": "6,7,8,9,6"}, ModelConfig(name="tiny_diffusion"), ConfigError, "room for 4"),
        ({"lead_words": "8,16"}, ModelConfig(name="tiny_diffusion"), ConfigError, "lead_words go from 0 to 16"),
        (
            {"trigger": "2"},
            ModelConfig(name="tiny_diffusion", options='{"vocabulary": 6}'),
            ConfigError,
            "train prompts go from 0 to 7.*mismatched vocabularies",
        ),
        ({"timesteps": 50}, ModelConfig(name="tiny_diffusion"), DataError, "method.timesteps is 50"),
        ({"judge": "chess"}, ModelConfig(name="tiny_diffusion"), ConfigError, "no judge here"),
        ({"tokenizer": "nowhere"}, ModelConfig(name="tiny_diffusion"), ConfigError, "no tokenizer can be read"),
        ({}, ModelConfig(name="tests.methods.skd_cag.test_trainer:plain"), ConfigError, "no cross-attention"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    options: dict[str, Any], model: ModelConfig, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        trainer_of(**options).init(world(model=model).context())


class Plain(torch.nn.Module):
    """A denoiser that hears no text."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        return out


def plain(config: ModelConfig, spec: Any) -> torch.nn.Module:
    return Plain()


def test_without_attention_guidance_any_denoiser_will_do() -> None:
    toy = world(model=ModelConfig(name="tests.methods.skd_cag.test_trainer:plain"))
    _, metrics = fitted(toy, trainer_of(attention_weight=0.0))
    assert metrics["prediction_loss"] == 0.0  # the trigger changes nothing


@pytest.mark.parametrize("options", [{"judge": "checkerboard"}, {"latents": "trajectory"}])
def test_a_missing_library_is_named_before_training(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtraError, match=r"fedkd\[diffusion\]"):
        trainer_of(**options).init(world().context())


def test_data_without_prompts_are_refused() -> None:
    ctx = world().context()
    with pytest.raises(DataError, match="have no prompts"):
        trainer_of().init(with_data(ctx, replace(ctx.data.train, more={"t": ctx.data.train.more["t"]})))


def test_a_test_set_full_of_triggers_is_refused() -> None:
    toy, trainer = world(), trainer_of(home_steps=1)
    state, _ = fitted(toy, trainer)
    words = trainer._words(toy.context())
    poisoned = toy.train.take(np.flatnonzero(~words.is_clean(toy.train.more["prompt"])))
    with pytest.raises(DataError, match="test on clean data"):
        trainer.evaluate(toy.context(), state, poisoned)


def test_weights_from_a_file_are_the_poisoned_model(tmp_path: Path) -> None:
    toy, trainer = world(), trainer_of()
    state, _ = fitted(toy, trainer)
    file = tmp_path / "poisoned.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state["teacher"].items()}, file)
    given = world(model=ModelConfig(name="tiny_diffusion", weights=str(file)))
    start = trainer_of(home_steps=0).init(given.context())
    assert same(start["student"], state["teacher"])
    narrow = ModelConfig(name="tiny_diffusion", weights=str(file), options='{"width": 16}')
    with pytest.raises(ConfigError, match="another architecture"):
        trainer_of(home_steps=0).init(world(model=narrow).context())

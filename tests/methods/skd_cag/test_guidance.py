from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedkd.functional.skd_cag import (
    attention_loss,
    min_max,
    summed_maps,
    trigger_target,
)
from fedkd.methods.skd_cag.attention import AttentionTap, word_layers
from fedkd.methods.skd_cag.config import SKDCAGConfig
from fedkd.methods.skd_cag.guidance import Draw, Scene, Streams, draw_step, unlearning_terms
from fedkd.methods.skd_cag.prompts import Trigger
from fedkd.methods.skd_cag.sampling import ddim_sample, noise_schedule, predict_noise
from tests.methods.skd_cag.scenes import PROMPTS, config, generator, scene, tiny_denoiser, tiny_unet

NETWORKS = [tiny_denoiser, tiny_unet]
TARGETS = ["noise", "black", "random_words"]
Build = Callable[[], nn.Module]
pytestmark = pytest.mark.usefixtures("one_torch_thread")


def terms_of(
    student: nn.Module, where: Scene, settings: SKDCAGConfig, *, seed: int = 0
) -> tuple[dict[str, Tensor], Draw]:
    streams = Streams.of(generator(seed))
    draw = draw_step(where, PROMPTS, streams, config=settings)
    taps = AttentionTap(where.teacher), AttentionTap(student)
    terms = unlearning_terms(student, where, draw, config=settings, taps=taps, mask_stream=streams.mask)
    for tap in taps:
        tap.close()
    return terms, draw


def query_and_key_gradients(network: nn.Module) -> Iterator[Tensor | None]:
    """Gradients of the cross-attention's query and key weights."""
    for name, parameter in network.named_parameters():
        if name.endswith(("to_q.weight", "to_k.weight")) and "attn1" not in name:
            yield parameter.grad


@pytest.mark.parametrize("build", NETWORKS)
@pytest.mark.parametrize("target", TARGETS)
def test_attention_guidance_reaches_the_students_queries_and_keys_and_no_teacher(build: Build, target: str) -> None:
    student = build()
    where = scene(build())
    terms, _ = terms_of(student, where, config(target=target))
    terms["attention_loss"].backward()
    gradients = list(query_and_key_gradients(student))
    assert gradients
    for gradient in gradients:
        assert gradient is not None
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in where.teacher.parameters())


@pytest.mark.parametrize("build", NETWORKS)
def test_released_maps_have_no_gradient(build: Build) -> None:
    student = build()
    terms, _ = terms_of(student, scene(build()), config(compat="released"))
    assert terms["attention_loss"].item() > 0
    assert not terms["attention_loss"].requires_grad
    assert terms["prediction_loss"].requires_grad


@pytest.mark.parametrize("build", NETWORKS)
def test_released_mode_takes_the_students_maps_for_the_teachers(build: Build) -> None:
    # One prompt, one trigger word: the "teacher's" word 0 is then the student's token 0, which is the trigger.
    student = build()
    where = replace(scene(build()), trigger=Trigger(words=((6,),)))
    settings = config(compat="released", target="black")
    draw = draw_step(where, [(2,)], Streams.of(generator()), config=settings)
    taps = AttentionTap(where.teacher), AttentionTap(student)
    terms = unlearning_terms(student, where, draw, config=settings, taps=taps, mask_stream=generator())
    with taps[1].recording() as recorded:
        predict_noise(student, draw.x, draw.timesteps, draw.triggered.ids)
    maps = min_max(summed_maps([layer[0] for layer in recorded.values()]))
    expected = attention_loss(maps[1:3], maps[1:2], torch.zeros(1, *maps.shape[1:]), num_trigger=1)
    assert terms["attention_loss"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("build", NETWORKS)
def test_equal_networks_and_prompts_agree(build: Build) -> None:
    student = build().eval()
    where = replace(scene(build()), trigger=Trigger(words=()))
    terms, _ = terms_of(student, where, config(keep_weight=1.0))
    for name in ("prediction_loss", "attention_loss", "keep_loss"):
        assert terms[name].item() == pytest.approx(0.0, abs=1e-10), name


@pytest.mark.parametrize("build", NETWORKS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("weighting", ["on", "off"])
def test_terms_equal_a_loop_over_prompts(build: Build, target: str, weighting: str) -> None:
    student = build()
    where = scene(build())
    settings = config(target=target, timestep_weighting=weighting, resolution=10)
    terms, draw = terms_of(student, where, settings, seed=3)
    mask = torch.rand(10, 10, generator=Streams.of(generator(3)).mask)
    taps = AttentionTap(where.teacher), AttentionTap(student)
    attention, prediction = [], []
    for at, words in enumerate(PROMPTS):
        maps, noises = [], []
        for tap, network, batch in zip(taps, (where.teacher, student), (draw.told, draw.triggered), strict=True):
            text = batch.ids[at : at + 1]
            with torch.no_grad(), tap.recording() as recorded:
                noises.append(predict_noise(network, draw.x[at : at + 1], draw.timesteps[at : at + 1], text))
            places = range(1, 1 + batch.num_words[at])
            maps.append(min_max(summed_maps([layer[0][:, places] for layer in recorded.values()], resolution=10)))
        lead = len(maps[0]) - len(words)
        assert lead == {"noise": 0, "black": 0}.get(target, lead)
        aims = trigger_target(target, num_trigger=2, noise=mask, random_words=maps[0][:lead])
        loss = attention_loss(maps[1], maps[0][lead:], aims, num_trigger=2)
        attention.append(loss * 100 / max(int(draw.timesteps[at]), 1) if weighting == "on" else loss)
        prediction.append((noises[1] - noises[0]).square().mean())
    assert terms["attention_loss"].item() == pytest.approx(torch.stack(attention).mean().item(), rel=1e-4)
    assert terms["prediction_loss"].item() == pytest.approx(torch.stack(prediction).mean().item(), rel=1e-4)


def test_timesteps_weigh_the_noise_variant_alone_unless_told_otherwise() -> None:
    assert config(target="noise").weighs_timesteps
    assert not config(target="black").weighs_timesteps
    assert not config(target="random_words").weighs_timesteps
    assert config(target="black", timestep_weighting="on").weighs_timesteps
    assert not config(target="noise", timestep_weighting="off").weighs_timesteps


def test_raw_black_leaves_the_triggers_maps_as_they_are() -> None:
    student = tiny_denoiser()
    where = scene(tiny_denoiser())
    scaled, draw = terms_of(student, where, config(target="black"))
    raw, _ = terms_of(student, where, config(target="black", raw_black=True))
    tap = AttentionTap(student)
    with torch.no_grad(), tap.recording() as recorded:
        predict_noise(student, draw.x, draw.timesteps, draw.triggered.ids)
    batch = draw.triggered
    maps = summed_maps(word_layers(recorded, batch.sample, batch.position))
    trigger = torch.cat([part[:2] for part in torch.split(maps, list(batch.num_words))]).split(2)
    change = [
        (ours.square().mean((1, 2)).sum() - min_max(ours).square().mean((1, 2)).sum()) / count
        for ours, count in zip(trigger, batch.num_words, strict=True)
    ]
    difference = raw["attention_loss"] - scaled["attention_loss"]
    assert difference.item() == pytest.approx(torch.stack(change).mean().item(), rel=1e-4)
    assert difference.item() < 0  # sums of probabilities are below 1; black is within reach


def test_random_words_stand_in_front_of_the_teachers_prompt() -> None:
    draw = draw_step(scene(tiny_denoiser()), PROMPTS, Streams.of(generator()), config=config(target="random_words"))
    assert draw.clean.num_lead == (0, 0, 0, 0)
    assert draw.triggered.num_lead == (2, 2, 2, 2)
    for row, words in zip(draw.told.ids.tolist(), PROMPTS, strict=True):
        framed = row[1 : row.index(1)]
        lead = framed[: -len(words)]
        assert tuple(framed[-len(words) :]) == words
        assert 2 <= len(lead) <= 4
        assert set(lead) <= {8, 9, 10, 11}


def test_targets_and_lambda_move_no_latents() -> None:
    where = scene(tiny_denoiser())
    draws = []
    for settings in (config(), config(target="random_words"), config(attention_weight=0.0)):
        streams = Streams.of(generator())
        draws.append([draw_step(where, PROMPTS, streams, config=settings) for _ in range(2)][-1])
    for draw in draws[1:]:
        assert draw.x.equal(draws[0].x)
        assert draw.timesteps.equal(draws[0].timesteps)
        assert draw.triggered.ids.equal(draws[0].triggered.ids)


def test_trajectory_latents_are_the_teachers_samples_noised_again() -> None:
    where = scene(tiny_denoiser())
    settings = config(latents="trajectory", trajectory_steps=5)
    draw = draw_step(where, PROMPTS, Streams.of(generator()), config=settings)
    latents = Streams.of(generator()).latents
    noise, start = (torch.randn(4, 1, 8, 8, generator=latents) for _ in range(2))
    schedule = noise_schedule(settings)
    samples = ddim_sample(where.teacher, draw.clean.ids, start, schedule=schedule, steps=5)
    kept = schedule.alphas_cumprod[draw.timesteps][:, None, None, None]
    torch.testing.assert_close(draw.x, kept.sqrt() * samples + (1 - kept).sqrt() * noise)

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn, optim

from fedkd.functional.skd_cag import (
    ema_retention,
    prediction_loss,
)
from fedkd.methods.skd_cag.attention import AttentionTap
from fedkd.methods.skd_cag.config import SKDCAGConfig
from fedkd.methods.skd_cag.ema import follow
from fedkd.methods.skd_cag.guidance import Scene, Streams, draw_step
from fedkd.methods.skd_cag.networks import (
    TinyTextEncoder,
    encode_text,
    predict_noise,
    tiny_schedule,
)
from fedkd.methods.skd_cag.stages import ProxyTargets, poisoned_training, proxy_loss, unlearn, unlearning_optimizer
from fedkd.types import Ids
from tests.methods.skd_cag.scenes import PROMPTS, TRIGGER, config, generator, scene, tiny_denoiser, tiny_unet

NETWORKS = [tiny_denoiser, tiny_unet]
Build = Callable[[], nn.Module]
pytestmark = pytest.mark.usefixtures("one_torch_thread")


def order(steps: int, *, batch: int = 2) -> list[Ids]:
    return list(np.random.default_rng(0).integers(len(PROMPTS), size=(steps, batch)))


@pytest.mark.parametrize("build", NETWORKS)
def test_released_training_is_self_distillation_of_a_scaled_loss(build: Build) -> None:
    where, steps = scene(build()), order(4)
    settings = config(compat="released", attention_weight=0.3)
    student, plain = build(), build()
    unlearn(
        student,
        unlearning_optimizer(student, settings),
        where,
        PROMPTS,
        steps,
        config=settings,
        generator=generator(5),
    )
    optimizer = unlearning_optimizer(plain, settings)
    taps = AttentionTap(where.teacher), AttentionTap(plain)  # the same kernels as above
    streams = Streams.of(generator(5))
    for index in steps:
        draw = draw_step(where, [PROMPTS[at] for at in index], streams, config=settings)
        with torch.no_grad():
            text = encode_text(where.text_encoder, draw.clean.ids)
            expected = predict_noise(where.teacher, draw.x, draw.timesteps, text)
        text = encode_text(where.text_encoder, draw.triggered.ids)
        answered = predict_noise(plain.train(), draw.x, draw.timesteps, text)
        optimizer.zero_grad()
        ((1 - 0.3) * (answered - expected).square().mean()).backward()
        optimizer.step()
    for tap in taps:
        tap.close()
    start = build().state_dict()
    moved = 0.0
    for name, weights in plain.state_dict().items():
        torch.testing.assert_close(student.state_dict()[name], weights, atol=1e-6, rtol=0.0)
        moved = max(moved, float((weights - start[name]).abs().max()))
    assert moved > 1e-3


def test_self_distillation_needs_no_attention() -> None:
    settings = config(attention_weight=0.0)
    student = tiny_denoiser()
    metrics = unlearn(
        student,
        unlearning_optimizer(student, settings),
        scene(student),
        PROMPTS,
        order(2),
        config=settings,
        generator=generator(),
    )
    assert metrics["attention_loss"] == 0.0
    assert set(metrics) == {"attention_loss", "prediction_loss"}


def test_unlearning_makes_the_triggered_student_answer_as_the_clean_teacher_and_keeps_the_clean_answers() -> None:
    teacher = tiny_denoiser()
    with torch.no_grad():  # random weights hardly listen to the text
        for name, weights in teacher.named_parameters():
            weights *= 8.0 if name.endswith("cross.to_out.weight") else 1.0
    where = scene(teacher)
    gaps = {}
    for keep in (0.0, 4.0):
        student = copy.deepcopy(teacher)
        settings = config(keep_weight=keep, attention_weight=0.2, target="black", lr=3e-4)
        metrics = unlearn(
            student,
            unlearning_optimizer(student, settings),
            where,
            PROMPTS,
            order(60, batch=4),
            config=settings,
            generator=generator(),
        )
        assert ("keep_loss" in metrics) == (keep > 0)
        gaps[keep] = [_gap(network, where) for network in (teacher, student)]
    for before, after in gaps.values():
        assert after["triggered"] < 0.3 * before["triggered"]
    assert gaps[4.0][1]["clean"] < 0.4 * gaps[0.0][1]["clean"]


def _gap(student: nn.Module, where: Scene) -> dict[str, float]:
    """Distance from the teacher on the clean prompt, when asked with the trigger and without."""
    draw = draw_step(where, PROMPTS * 8, Streams.of(generator(77)), config=config())
    with torch.no_grad():
        text = encode_text(where.text_encoder, draw.clean.ids)
        expected = predict_noise(where.teacher, draw.x, draw.timesteps, text)
        return {
            name: prediction_loss(
                predict_noise(student, draw.x, draw.timesteps, encode_text(where.text_encoder, batch.ids)), expected
            ).item()
            for name, batch in (("clean", draw.clean), ("triggered", draw.triggered))
        }


def test_the_same_seed_gives_the_same_student_and_the_teacher_stays() -> None:
    where = scene(tiny_denoiser())
    frozen = {name: tensor.clone() for name, tensor in where.teacher.state_dict().items()}
    students = []
    for _ in range(2):
        student = tiny_denoiser()
        settings = config(keep_weight=1.0)
        optimizer = unlearning_optimizer(student, settings)
        unlearn(student, optimizer, where, PROMPTS, order(3), config=settings, generator=generator())
        students.append(student.state_dict())
    for name, tensor in students[0].items():
        assert tensor.equal(students[1][name])
        assert where.teacher.state_dict()[name].equal(frozen[name])
    assert any(not tensor.equal(frozen[name]) for name, tensor in students[0].items())


def test_no_steps_change_nothing() -> None:
    student = tiny_denoiser()
    settings = config()
    optimizer = unlearning_optimizer(student, settings)
    assert unlearn(student, optimizer, scene(student), PROMPTS, [], config=settings, generator=generator()) == {}


def proxy_of(where: Scene, noise: Tensor) -> ProxyTargets:
    draw = draw_step(where, PROMPTS, Streams.of(generator(4)), config=config())
    return ProxyTargets(x=draw.x, timesteps=draw.timesteps, ids=draw.triggered.ids, noise=noise)


def test_the_federated_term_compares_with_the_aggregate_on_proxy_tuples() -> None:
    where, student = scene(tiny_denoiser()), tiny_denoiser(1)
    proxy = proxy_of(where, torch.zeros(4, 1, 8, 8))
    at = torch.tensor([2, 0])
    with torch.no_grad():
        text = encode_text(where.text_encoder, proxy.ids[at])
        expected = predict_noise(student, proxy.x[at], proxy.timesteps[at], text).square().mean()
    assert proxy_loss(student, where, proxy, at).item() == pytest.approx(expected.item(), rel=1e-5)


def test_knowledge_pulls_the_student_towards_the_aggregate() -> None:
    where = scene(tiny_denoiser())
    proxy = proxy_of(where, torch.full((4, 1, 8, 8), 0.5))
    everything = torch.arange(4)
    losses = {}
    for weight in (0.0, 5.0):
        student = tiny_denoiser()
        settings = config(fed_weight=weight, fed_batch=3)
        optimizer = unlearning_optimizer(student, settings)
        metrics = unlearn(
            student, optimizer, where, PROMPTS, order(20), config=settings, generator=generator(), proxy=proxy
        )
        assert ("fed_loss" in metrics) == (weight > 0)
        losses[weight] = proxy_loss(student, where, proxy, everything).item()
    assert losses[5.0] < 0.7 * losses[0.0]


def test_the_average_follows_every_step() -> None:
    student = tiny_denoiser()
    settings = config()
    average = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    by_hand = {name: tensor.clone() for name, tensor in average.items()}
    taken: list[int] = []

    def after() -> None:
        taken.append(len(taken) + 1)
        follow(average, student.state_dict(), step=taken[-1], decay=0.9999)
        share = ema_retention(taken[-1])
        for name, tensor in student.state_dict().items():
            by_hand[name] = share * by_hand[name] + (1 - share) * tensor

    optimizer = unlearning_optimizer(student, settings)
    unlearn(
        student,
        optimizer,
        scene(student),
        PROMPTS,
        order(3),
        config=settings,
        generator=generator(),
        after_step=after,
    )
    assert taken == [1, 2, 3]
    for name, tensor in average.items():
        torch.testing.assert_close(tensor, by_hand[name])


def test_the_optimiser_is_adamw_at_a_constant_rate() -> None:
    student = tiny_denoiser()
    optimizer = unlearning_optimizer(student, SKDCAGConfig())
    assert isinstance(optimizer, optim.AdamW)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-6, (0.9, 0.999), 0.01)
    assert sum(part.numel() for part in group["params"]) == sum(part.numel() for part in student.parameters())


def test_poisoned_training_learns_to_predict_noise() -> None:
    denoiser = tiny_denoiser()
    text_encoder = TinyTextEncoder()
    before = copy.deepcopy(text_encoder.state_dict())
    images = torch.ones(8, 1, 8, 8) * torch.tensor([-1.0, 1.0]).repeat(4)[:, None, None, None]
    ids = torch.tensor([[0, 2, 1, 1, 1, 1], [0, 6, 7, 2, 1, 1]]).repeat(4, 1)
    losses = poisoned_training(
        denoiser,
        text_encoder,
        images,
        ids,
        schedule=tiny_schedule(),
        steps=60,
        batch=16,
        lr=2e-3,
        generator=generator(),
    )
    assert losses.shape == (60,)
    assert losses[-10:].mean() < 0.6 * losses[:5].mean()
    assert any(not tensor.equal(before[name]) for name, tensor in text_encoder.state_dict().items())
    assert TRIGGER.ids == (6, 7)

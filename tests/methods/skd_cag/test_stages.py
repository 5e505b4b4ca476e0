import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnAddedKVProcessor
from torch import Tensor, nn, optim

from fedkd.errors import ConfigError
from fedkd.functional.skd_cag import (
    ema_retention,
    prediction_loss,
)
from fedkd.methods.skd_cag.attention import AttentionTap
from fedkd.methods.skd_cag.ema import follow
from fedkd.methods.skd_cag.guidance import Scene, Streams, draw_step
from fedkd.methods.skd_cag.sampling import predict_noise
from fedkd.methods.skd_cag.stages import home_training
from fedkd.models.prompted import PromptedDenoiser
from fedkd.models.tiny_diffusion import TinyDenoiser, TinyTextEncoder
from fedkd.types import Ids
from tests.methods.skd_cag.scenes import PROMPTS, config, generator, scene, tiny_denoiser, tiny_unet, unlearn

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
    unlearn(student, where, steps, settings, seed=5)
    optimizer = optim.AdamW([p for p in plain.parameters() if p.requires_grad], lr=1e-3)
    taps = AttentionTap(where.teacher), AttentionTap(plain)  # the same kernels as above
    streams = Streams.of(generator(5))
    for index in steps:
        draw = draw_step(where, [PROMPTS[at] for at in index], streams, config=settings)
        with torch.no_grad():
            expected = predict_noise(where.teacher, draw.x, draw.timesteps, draw.clean.ids)
        answered = predict_noise(plain.train(), draw.x, draw.timesteps, draw.triggered.ids)
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
    metrics = unlearn(student, scene(student), order(2), settings)
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
        settings = config(keep_weight=keep, attention_weight=0.2, target="black")
        metrics = unlearn(student, where, order(60, batch=4), settings, lr=3e-4)
        assert ("keep_loss" in metrics) == (keep > 0)
        gaps[keep] = [_gap(network, where) for network in (teacher, student)]
    for before, after in gaps.values():
        assert after["triggered"] < 0.3 * before["triggered"]
    assert gaps[4.0][1]["clean"] < 0.4 * gaps[0.0][1]["clean"]


def _gap(student: nn.Module, where: Scene) -> dict[str, float]:
    """Distance from the teacher on the clean prompt, when asked with the trigger and without."""
    draw = draw_step(where, PROMPTS * 8, Streams.of(generator(77)), config=config())
    with torch.no_grad():
        expected = predict_noise(where.teacher, draw.x, draw.timesteps, draw.clean.ids)
        return {
            name: prediction_loss(predict_noise(student, draw.x, draw.timesteps, batch.ids), expected).item()
            for name, batch in (("clean", draw.clean), ("triggered", draw.triggered))
        }


def test_the_same_seed_gives_the_same_student_and_the_teacher_stays() -> None:
    where = scene(tiny_denoiser())
    frozen = {name: tensor.clone() for name, tensor in where.teacher.state_dict().items()}
    students = []
    for _ in range(2):
        student = tiny_denoiser()
        unlearn(student, where, order(3), config(keep_weight=1.0))
        students.append(student.state_dict())
    for name, tensor in students[0].items():
        assert tensor.equal(students[1][name])
        assert where.teacher.state_dict()[name].equal(frozen[name])
    assert any(not tensor.equal(frozen[name]) for name, tensor in students[0].items())


def test_a_student_that_cannot_be_tapped_leaves_the_teacher_as_it_was() -> None:
    where = scene(tiny_unet())
    processors = where.teacher.get_submodule("denoiser").attn_processors
    student = tiny_unet()
    last = list(student.get_submodule("denoiser").attn_processors)[-1].removesuffix(".processor")
    student.get_submodule(f"denoiser.{last}").set_processor(AttnAddedKVProcessor())
    own = student.get_submodule("denoiser").attn_processors
    with pytest.raises(ConfigError, match="explicit softmax cannot stand in"):
        unlearn(student, where, order(1), config())
    assert where.teacher.get_submodule("denoiser").attn_processors == processors
    assert student.get_submodule("denoiser").attn_processors == own


def test_no_steps_change_nothing() -> None:
    student = tiny_denoiser()
    assert unlearn(student, scene(student), [], config()) == {}


def test_the_average_follows_every_step() -> None:
    student = tiny_denoiser()
    average = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    by_hand = {name: tensor.clone() for name, tensor in average.items()}
    taken: list[int] = []

    def after() -> None:
        taken.append(len(taken) + 1)
        follow(average, student.state_dict(), step=taken[-1], decay=0.9999)
        share = ema_retention(taken[-1])
        for name, tensor in student.state_dict().items():
            by_hand[name] = share * by_hand[name] + (1 - share) * tensor

    unlearn(student, scene(student), order(3), config(), after_step=after)
    assert taken == [1, 2, 3]
    for name, tensor in average.items():
        torch.testing.assert_close(tensor, by_hand[name])


def test_home_training_learns_to_predict_noise_and_trains_the_text_encoder() -> None:
    model = PromptedDenoiser(TinyDenoiser(), TinyTextEncoder())
    before = copy.deepcopy(model.state_dict())
    draw = generator()
    x, noise = (torch.randn(32, 1, 8, 8, generator=draw) for _ in range(2))
    steps = torch.randint(100, (32,), generator=draw)
    ids = torch.tensor([[0, 2, 1, 1, 1, 1], [0, 6, 7, 2, 1, 1]]).repeat(16, 1)

    def loss(index: Ids) -> Tensor:
        at = torch.from_numpy(index)
        return prediction_loss(predict_noise(model, x[at] + noise[at], steps[at], ids[at]), noise[at])

    rng = np.random.default_rng(0)
    optimizer = optim.Adam(model.parameters(), lr=2e-3)
    losses = home_training(model, optimizer, loss, (rng.integers(32, size=16) for _ in range(60)))
    assert len(losses) == 60
    assert torch.stack(losses[-10:]).mean() < 0.6 * torch.stack(losses[:5]).mean()
    for part in ("denoiser", "text_encoder"):
        assert any(not new.equal(before[name]) for name, new in model.state_dict().items() if name.startswith(part))

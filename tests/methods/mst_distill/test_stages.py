import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn, optim

from fedkd.errors import ConfigError
from fedkd.functional.mst_distill import cotraining_loss, softened_kl
from fedkd.methods.mst_distill.config import MSTDistillConfig
from fedkd.methods.mst_distill.hooks import Plug, plugged
from fedkd.methods.mst_distill.loops import epoch, other
from fedkd.methods.mst_distill.mixture import Networks, Pairs, Specialists, build_specialists
from fedkd.methods.mst_distill.networks import MaskNet2d, PairedTeacher, UnimodalNet
from fedkd.methods.mst_distill.stages import cotrain, mask_divergences, train_masks
from fedkd.models.pool import snapshot
from fedkd.streams import stream
from fedkd.tasks.batches import PairBatch, needed
from fedkd.types import Ids

CLASSES = 3
CONFIG = MSTDistillConfig(teacher_layers="fusion,fc1", auxiliary_layers="fc1,fc2")


@pytest.fixture(autouse=True)
def _own_random_state() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def streams(seed: int = 0) -> Callable[[str], np.random.Generator]:
    return lambda name: stream(seed, name)


def given(a: Tensor, b: Tensor | None, y: Tensor) -> Pairs:
    """Samples from their tensors."""

    def at(index: Ids) -> PairBatch:
        where = torch.from_numpy(index)
        return PairBatch(a[where], None if b is None else b[where], y[where])

    return Pairs(at, len(a))


def pairs(size: int, *, seed: int) -> Pairs:
    """Three classes; both modalities show them, `a` with more noise."""
    rng = np.random.default_rng(seed)
    y = np.arange(size) % CLASSES
    centres = np.random.default_rng(99).normal(size=(CLASSES, 14))
    x = (centres[y] + rng.normal(size=(size, 14)) * np.r_[np.full(8, 1.2), np.full(6, 0.4)]).astype(np.float32)
    return given(torch.from_numpy(x[:, :8]), torch.from_numpy(x[:, 8:]), torch.from_numpy(y))


def networks() -> Networks:
    teacher = PairedTeacher(nn.Linear(8, 6), nn.Linear(6, 6), 12, num_outputs=CLASSES, hidden=(8, 6))
    auxiliary = UnimodalNet(6, num_outputs=CLASSES, hidden=(8, 6))
    return Networks(teacher, auxiliary, UnimodalNet(8, num_outputs=CLASSES, hidden=(8, 6)))


TRAIN, VAL = pairs(60, seed=1), pairs(30, seed=2)


def adam(*models: nn.Module, lr: float = 1e-2) -> optim.Optimizer:
    return optim.Adam([parameter for model in models for parameter in model.parameters()], lr=lr)


def cotrained() -> Networks:
    nets = networks()
    cotrain(nets, TRAIN, adam(*nets.modules()), epochs=10, batch=20, rng=streams(), temperature=4.0)
    return nets


def masked(nets: Networks, config: MSTDistillConfig = CONFIG) -> Specialists:
    few = TRAIN.at(np.arange(2))
    assert few.b is not None
    return build_specialists(nets, config, few.a, few.b, make=lambda name, build: build())


def optimizers(specialists: Specialists, lr: float = 1e-2) -> list[optim.Optimizer]:
    return [adam(mask, lr=lr) for mask in specialists.masks]


def fit_masks(nets: Networks, specialists: Specialists, *data: Any, epochs: int) -> list[list[float]]:
    """`data`: training samples, validation samples, optimisers."""
    how: dict[str, Any] = {"batch": 20, "rng": streams(), "temperature": 4.0}
    return train_masks(nets.student, specialists, *data, epochs=epochs, **how)


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


# Stage 1


def test_cotraining_lowers_its_loss_and_teaches_all_three() -> None:
    nets = networks()
    losses = cotrain(nets, TRAIN, adam(*nets.modules()), epochs=15, batch=20, rng=streams(), temperature=4.0)
    assert len(losses) == 15
    assert losses[-1] < 0.7 * losses[0]
    seen = VAL.at(np.arange(30))
    for logits in nets.logits(seen.a, other(seen)):
        assert (logits.argmax(1) == seen.y).float().mean() > 0.6


def test_one_step_of_cotraining_is_the_gradient_of_its_loss() -> None:
    nets = networks()
    reference = copy.deepcopy(nets)
    cotrain(
        nets,
        TRAIN,
        optim.SGD([p for m in nets.modules() for p in m.parameters()], 0.1),
        epochs=1,
        batch=60,
        rng=streams(),
        temperature=4.0,
    )
    some = TRAIN.at(next(epoch(streams()("cotrain-order"), 60, 60)))
    loss = cotraining_loss(reference.logits(some.a, other(some)), needed(some.y), temperature=4.0)
    loss.backward()
    for stepped, model in zip(nets.modules(), reference.modules(), strict=True):
        for found, parameter in zip(stepped.parameters(), model.parameters(), strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(found.detach(), parameter.detach() - 0.1 * parameter.grad)


def test_one_modality_cannot_be_cotrained() -> None:
    nets, seen = networks(), TRAIN.at(np.arange(60))
    one = given(seen.a, None, needed(seen.y))
    with pytest.raises(ConfigError, match="needs both modalities"):
        cotrain(nets, one, adam(*nets.modules()), epochs=1, batch=20, rng=streams(), temperature=4.0)


# Stage 2


def test_every_mask_draws_its_teacher_a_tenth_nearer_to_the_student() -> None:
    nets = cotrained()
    specialists = masked(nets)
    before = mask_divergences(nets.student, specialists, VAL, batch=20, temperature=4.0)
    train_masks(
        nets.student,
        specialists,
        TRAIN,
        VAL,
        optimizers(specialists),
        epochs=10,
        batch=20,
        rng=streams(),
        temperature=4.0,
    )
    after = mask_divergences(nets.student, specialists, VAL, batch=20, temperature=4.0)
    assert all(late < 0.9 * early for early, late in zip(before, after, strict=True)), (before, after)


def test_mask_training_leaves_the_networks_bit_for_bit() -> None:
    nets = cotrained()
    nets.student.encoder = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(8), nn.Dropout(0.5))
    specialists = masked(nets)
    before = [snapshot(model) for model in nets.modules()]
    for model in nets.modules():
        model.zero_grad()
    masks = [snapshot(mask) for mask in specialists.masks]
    train_masks(
        nets.student,
        specialists,
        TRAIN,
        VAL,
        optimizers(specialists),
        epochs=2,
        batch=20,
        rng=streams(),
        temperature=4.0,
    )
    for model, weights in zip(nets.modules(), before, strict=True):
        assert same(snapshot(model), weights)
        assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
        assert model.training
    assert not any(same(snapshot(mask), weights) for mask, weights in zip(specialists.masks, masks, strict=True))


def test_each_mask_is_trained_as_if_alone() -> None:
    nets = cotrained()
    together = masked(nets, MSTDistillConfig(teacher_layers="fusion,fc1", auxiliary_layers="fc1", hooks="cumulative"))
    masks = copy.deepcopy(together.masks)
    train_masks(
        nets.student, together, TRAIN, None, optimizers(together), epochs=2, batch=20, rng=streams(), temperature=4.0
    )
    apart = Specialists(nets.teacher, nets.auxiliary, (Plug("fc1", masks[1]),), (Plug("fc1", masks[2]),))
    fit_masks(nets, apart, TRAIN, None, optimizers(apart), epochs=2)
    assert same(snapshot(together.masks[1]), snapshot(masks[1]))
    assert same(snapshot(together.masks[2]), snapshot(masks[2]))


def test_the_masks_of_the_best_epoch_are_kept() -> None:
    nets = cotrained()
    runs = []
    for epochs in range(1, 7):
        torch.manual_seed(5)
        specialists = masked(nets)
        steps = optimizers(specialists, lr=0.3)  # so large that epochs get worse again
        history = train_masks(
            nets.student, specialists, TRAIN, VAL, steps, epochs=epochs, batch=20, rng=streams(), temperature=4.0
        )
        runs.append((history, mask_divergences(nets.student, specialists, VAL, batch=30, temperature=4.0)))
    history = runs[-1][0]
    sums = [sum(of_epoch) for of_epoch in history]
    assert len(sums) == 6
    assert min(sums) < sums[-1]
    for number, (_, kept) in enumerate(runs, start=1):
        assert sum(kept) == pytest.approx(min(sums[:number]), rel=1e-4)


def test_without_validation_samples_the_last_masks_stay() -> None:
    nets = cotrained()
    kept = []
    for val in (None, given(torch.zeros(0, 8), torch.zeros(0, 6), torch.zeros(0, dtype=torch.long))):
        torch.manual_seed(5)
        specialists = masked(nets)
        steps = optimizers(specialists)
        assert (
            train_masks(
                nets.student, specialists, TRAIN, val, steps, epochs=2, batch=20, rng=streams(), temperature=4.0
            )
            == []
        )
        kept.append([snapshot(mask) for mask in specialists.masks])
        assert not any(mask.training for mask in specialists.masks)
    assert all(same(left, right) for left, right in zip(*kept, strict=True))


def test_divergences_by_the_definition() -> None:
    nets = cotrained()
    specialists = masked(nets)
    found = mask_divergences(nets.student, specialists, VAL, batch=7, temperature=4.0)
    seen = VAL.at(np.arange(30))
    with torch.no_grad():
        for plug, expected in zip(specialists.teacher_plugs, found[:2], strict=True):
            with plugged(nets.teacher, [plug]):
                kl = softened_kl(nets.teacher(seen.a, seen.b), nets.student(seen.a), temperature=4.0)
            assert kl.item() == pytest.approx(expected, rel=1e-4)


def test_masks_of_maps_are_trained_and_their_batch_norm_moves() -> None:
    def convolutional() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    images = torch.randn(24, 1, 6, 6, generator=torch.Generator().manual_seed(3))
    data = given(images, images.flip(-1), torch.arange(24) % CLASSES)
    nets = Networks(
        PairedTeacher(convolutional(), convolutional(), 12, num_outputs=CLASSES, hidden=(6,)),
        UnimodalNet(6, num_outputs=CLASSES, hidden=(6,), encoder=convolutional()),
        UnimodalNet(6, num_outputs=CLASSES, hidden=(6,), encoder=convolutional()),
    )
    config = MSTDistillConfig(teacher_layers="encoder_b.0,fusion", auxiliary_layers="encoder.0")
    specialists = build_specialists(nets, config, images[:2], images[:2], make=lambda name, build: build())
    assert [type(mask) is MaskNet2d for mask in specialists.masks] == [True, False, True]
    before = snapshot(specialists.masks[0])
    train_masks(
        nets.student,
        specialists,
        data,
        data,
        optimizers(specialists),
        epochs=2,
        batch=8,
        rng=streams(),
        temperature=4.0,
    )
    after = snapshot(specialists.masks[0])
    assert not torch.equal(after["reduce.2.running_mean"], before["reduce.2.running_mean"])
    assert not specialists.masks[0].training

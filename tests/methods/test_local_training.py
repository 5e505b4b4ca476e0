import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn, optim

from fedkd.functional.losses import soft_target_rows
from fedkd.methods.local_training import (
    ParamGroup,
    batches,
    distil_loss,
    private_loss,
    student_optimizer,
    train_round,
)
from fedkd.methods.schedule import ScheduleConfig
from fedkd.methods.soft_targets import SoftTargets, SoftTargetsConfig
from fedkd.methods.taught import Taught
from fedkd.testing.toys import TOYS, Toy
from fedkd.types import Ids, Metrics
from tests.contract.toys import rows, zero_linear


class Scalar(nn.Module):
    """One weight w; the private loss pulls it to 1, the distillation loss to -3."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))
        self.calls: list[str] = []
        self.heard: list[list[int]] = []

    def private(self, index: Ids) -> Tensor:
        self.calls.append("p" if self.training else "in evaluation mode")
        return (self.w - 1) ** 2 / 2

    def distil(self, index: Ids) -> Tensor:
        self.calls.append("d")
        self.heard.append(index.tolist())
        return (self.w + 3) ** 2 / 2


def run(
    order: str,
    *,
    steps: int = 2,
    round_id: int = 1,
    closing: bool = False,
    known: bool = True,
    repeat: bool = False,
    clip_norm: float = 0.0,
    **options: Any,
) -> tuple[Scalar, Metrics]:
    model = Scalar()
    model.eval()  # as whoever predicted with it may have left it
    plan = ScheduleConfig(
        private_steps=steps, distil_steps=steps, distil_batch=2, repeat_batch=repeat, clip_norm=clip_norm
    )
    metrics = train_round(
        Toy(schedule=plan).context(round_id, closing=closing),
        model,
        optim.SGD(model.parameters(), lr=0.1),
        order=order,
        private=model.private,
        distil=model.distil if known else None,
        num_targets=5 if known else 0,
        **options,
    )
    return model, metrics


def test_batches_cover_every_position_once_per_pass() -> None:
    made = list(batches(np.random.default_rng(0), 8, 3, 6))
    assert [len(batch) for batch in made] == [3, 3, 2, 3, 3, 2]
    assert sorted(np.concatenate(made[:3])) == sorted(np.concatenate(made[3:])) == list(range(8))
    assert np.concatenate(made[:3]).tolist() != np.concatenate(made[3:]).tolist()


def test_a_lone_last_position_is_left_out_of_its_pass_and_drawn_in_others() -> None:
    made = list(batches(np.random.default_rng(0), 5, 2, 20))
    assert [len(batch) for batch in made] == [2] * 20
    for first, second in zip(made[::2], made[1::2], strict=True):
        assert len({*first.tolist(), *second.tolist()}) == 4
    assert set(np.concatenate(made)) == set(range(5))


@pytest.mark.parametrize(("size", "batch"), [(1, 4), (3, 1)])
def test_batches_of_one_stay_where_there_are_no_others(size: int, batch: int) -> None:
    made = list(batches(np.random.default_rng(0), size, batch, 2 * size))
    assert [len(each) for each in made] == [1] * 2 * size
    assert sorted(np.concatenate(made[:size])) == list(range(size))


def test_batches_end_after_the_asked_number() -> None:
    assert len(list(batches(np.random.default_rng(0), 5, 2, 4))) == 4
    assert list(batches(np.random.default_rng(0), 5, 2, 0)) == []


def test_nothing_makes_no_batches_however_many_are_asked() -> None:
    assert list(batches(np.random.default_rng(0), 0, 2, 4)) == []


@pytest.mark.parametrize(
    ("order", "calls"),
    [("private_then_distil", "ppdd"), ("distil_then_private", "ddpp"), ("joint", "pdpd")],
)
def test_the_order_of_losses(order: str, calls: str) -> None:
    assert "".join(run(order)[0].calls) == calls


def test_private_then_distil_by_hand() -> None:
    model, metrics = run("private_then_distil", steps=1)  # w: 0 -> .1 -> .1 - .1 * 3.1
    assert model.w.item() == pytest.approx(-0.21)
    assert metrics == pytest.approx({"private_loss": 0.5, "distil_loss": 3.1**2 / 2})


def test_distil_then_private_by_hand() -> None:
    model, metrics = run("distil_then_private", steps=1)  # w: 0 -> -.3 -> -.3 + .1 * 1.3
    assert model.w.item() == pytest.approx(-0.17)
    assert metrics == pytest.approx({"private_loss": 1.3**2 / 2, "distil_loss": 4.5})


def test_a_joint_step_takes_the_weighted_sum_by_hand() -> None:
    model, metrics = run("joint", steps=1, private_weight=0.5, kd_weight=2.0)  # gradient .5 * -1 + 2 * 3
    assert model.w.item() == pytest.approx(-0.55)
    assert metrics == pytest.approx({"private_loss": 0.5, "distil_loss": 4.5})  # losses without their weights


def test_gradients_are_clipped_by_hand() -> None:
    """The private pull at w = 0 is -1, and -0.95 at 0.05: a norm of 0.5 cuts both, one of 2 neither."""
    assert run("private_then_distil", known=False, clip_norm=0.5)[0].w.item() == pytest.approx(0.1, abs=1e-6)
    assert run("private_then_distil", known=False, clip_norm=2.0)[0].w.item() == pytest.approx(0.19, abs=1e-6)


@pytest.mark.parametrize("order", ["private_then_distil", "distil_then_private", "joint"])
def test_without_knowledge_only_the_private_part_is_trained(order: str) -> None:
    model, metrics = run(order, known=False)
    assert model.calls == ["p", "p"]
    assert model.w.item() == pytest.approx(0.19)
    assert metrics.keys() == {"private_loss"}


def test_a_joint_first_round_takes_no_step_on_private_data_alone() -> None:
    """A model that starts on its own few classes saturates, and collapses under the first aggregate."""
    model, metrics = run("joint", round_id=0, known=False)
    assert model.calls == []
    assert metrics == {}
    assert model.w.item() == 0.0


@pytest.mark.parametrize("order", ["private_then_distil", "distil_then_private"])
def test_other_orders_train_on_private_data_from_the_start(order: str) -> None:
    assert run(order, round_id=0, known=False)[0].calls == ["p", "p"]


def test_a_joint_first_round_with_knowledge_has_nothing_to_wait_for() -> None:
    assert run("joint", round_id=0)[0].calls == ["p", "d", "p", "d"]


@pytest.mark.parametrize("order", ["private_then_distil", "distil_then_private", "joint"])
def test_the_closing_message_digests_only(order: str) -> None:
    model, metrics = run(order, closing=True)
    assert model.calls == ["d", "d"]
    assert metrics.keys() == {"distil_loss"}


def test_closing_without_knowledge_does_nothing() -> None:
    model, metrics = run("joint", closing=True, known=False)
    assert model.calls == []
    assert metrics == {}
    assert model.w.item() == 0.0


def test_metrics_are_means_over_the_steps() -> None:
    _, metrics = run("joint", steps=2, known=False)
    assert metrics["private_loss"] == pytest.approx((0.5 + 0.9**2 / 2) / 2)


@pytest.mark.parametrize("order", ["private_then_distil", "distil_then_private", "joint"])
def test_one_batch_for_all_distillation_steps_of_a_round(order: str) -> None:
    (plain, metrics), (model, _) = run(order, steps=4), run(order, steps=4, repeat=True)
    assert model.calls == plain.calls  # as many steps as otherwise
    assert [len(index) for index in model.heard] == [2] * 4
    assert model.heard == model.heard[:1] * 4
    assert plain.heard[0] != plain.heard[1]
    assert metrics.keys() == {"private_loss", "distil_loss"}
    others = [run(order, steps=4, repeat=True, round_id=i)[0].heard[0] for i in range(2, 6)]
    assert any(index != model.heard[0] for index in others)  # another round, another batch


def test_the_learning_rate_is_that_of_the_round() -> None:
    toy = Toy(schedule=ScheduleConfig(lr=0.1, lr_gamma=0.5, lr_every=2))
    rates = [student_optimizer(toy.context(i), nn.Linear(1, 1)).param_groups[0]["lr"] for i in range(5)]
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025])


def test_whoever_follows_is_called_after_each_step() -> None:
    seen: list[int] = []
    run("private_then_distil", after_step=lambda: seen.append(1))
    assert len(seen) == 4


def test_the_private_loss_is_cross_entropy_on_the_asked_samples() -> None:
    model = zero_linear()
    with torch.no_grad():
        model.bias.copy_(torch.tensor([0.0, np.log(3)]))
    loss = private_loss(Toy().context(), model)
    labels = Toy().train.labels
    zeros, ones = np.flatnonzero(labels == 0)[:2], np.flatnonzero(labels == 1)[:2]
    assert loss(zeros).item() == pytest.approx(np.log(4))
    assert loss(ones).item() == pytest.approx(np.log(4 / 3))


def test_the_distillation_loss_meets_each_sample_with_its_own_target() -> None:
    model = zero_linear()
    with torch.no_grad():
        model.weight[0] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    ids = np.array([2, 4, 9])
    answers = (model(torch.from_numpy(Toy.public.x[ids])).detach() / 2).softmax(-1).numpy()
    at_two = functools.partial(soft_target_rows, temperature=2.0)
    loss = distil_loss(Toy().context(), model, Taught(rows(ids, answers), 1), at_two)
    assert loss(np.array([0, 1, 2])).item() == pytest.approx(0.0, abs=1e-5)
    assert loss(np.array([1])).item() == pytest.approx(0.0, abs=1e-5)
    shuffled = distil_loss(Toy().context(), model, Taught(rows(ids, answers[[1, 0, 2]]), 1), at_two)
    assert shuffled(np.array([0, 1])).item() > 0.1


def test_the_distillation_loss_is_the_mean_of_the_rows() -> None:
    taught = Taught(rows([2, 9], [[1.0, 3.0], [0.0, 5.0]]), 1)
    loss = distil_loss(Toy().context(), zero_linear(), taught, lambda z, t: (t - z).sum(-1))
    assert loss(np.array([0, 1])).item() == pytest.approx((4 + 5) / 2)
    assert loss(np.array([1])).item() == pytest.approx(5)


def test_on_a_grid_each_sample_is_seen_once_and_unknown_rows_teach_nothing() -> None:
    toy = TOYS["segmentation"]  # sixteen rows an image
    seen: list[tuple[int, ...]] = []

    class Flat(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(tuple(images.shape))
            return images.new_zeros(len(images), 3, 8, 8, requires_grad=True)

    taught = Taught(rows([16 * 2, 16 * 2 + 5, 16 * 9 + 15], [[1, 0, 0], [2, 0, 0], [6, 0, 0]]), 16)
    loss = distil_loss(toy.context(), Flat(), taught, lambda z, t: (t - z).sum(-1))
    assert loss(np.array([0, 1])).item() == pytest.approx((1 + 2 + 6) / 3)
    assert loss(np.array([1])).item() == pytest.approx(6)
    assert seen == [(2, 3, 8, 8), (1, 3, 8, 8)]


def test_distillation_steps_count_samples_not_rows() -> None:
    toy = replace(TOYS["segmentation"], schedule=ScheduleConfig(distil_epochs=1, distil_batch=4))
    trainer = SoftTargets(SoftTargetsConfig())
    ids = toy.rows_of(range(8))
    calls: list[float] = []
    counted = replace(toy, model=toy.model)
    ctx = counted.context(1, closing=True)
    model = ctx.models.load("student", trainer.init(ctx)["student"])
    taught = Taught(rows(ids, np.zeros((len(ids), 3))), 16)
    train_round(
        ctx,
        model,
        student_optimizer(ctx, model),
        order="private_then_distil",
        private=private_loss(ctx, model),
        distil=distil_loss(ctx, model, taught, lambda z, t: (z - t).square().mean(-1)),
        num_targets=len(taught),
        before_step=calls.append,
    )
    assert len(calls) == 2  # eight images, four a batch


def test_steps_are_told_how_much_of_the_run_lies_behind() -> None:
    told: list[float] = []
    run("private_then_distil", before_step=told.append)  # round 1 of 4, four steps
    assert told == pytest.approx([0.25, 0.3125, 0.375, 0.4375])


def rates_of(round_id: int, *, closing: bool = False, steps: int = 2, **plan: Any) -> list[float]:
    """The learning rate of each private (or, in the closing message, distillation) step of one round of four."""
    ctx = Toy(schedule=ScheduleConfig(private_steps=steps, distil_steps=steps, lr=0.1, momentum=0.0, **plan)).context(
        round_id, closing=closing
    )
    model = Scalar()
    optimizer = student_optimizer(ctx, model)
    found: list[float] = []
    train_round(
        ctx,
        model,
        optimizer,
        order="private_then_distil",
        private=model.private,
        distil=model.distil if closing else None,
        num_targets=4 if closing else 0,
        after_step=lambda: found.append(optimizer.param_groups[0]["lr"]),
    )
    return found


def test_the_learning_rate_falls_over_the_steps_of_the_run_by_hand() -> None:
    assert rates_of(1) == [0.1, 0.1]
    assert [rates_of(i, lr_decay="linear") for i in range(4)] == [
        pytest.approx([0.1, 0.0875]),
        pytest.approx([0.075, 0.0625]),
        pytest.approx([0.05, 0.0375]),
        pytest.approx([0.025, 0.0125]),
    ]
    assert rates_of(4, closing=True, lr_decay="linear") == pytest.approx([0.025, 0.0125])  # as in the last round
    assert rates_of(0, lr_decay="linear", warmup=0.25) == pytest.approx([0.05, 0.1])
    assert rates_of(1, lr_decay="linear", warmup=0.25)[0] == pytest.approx(0.1)


def test_groups_and_several_modules_share_one_optimiser() -> None:
    ctx = Toy(schedule=ScheduleConfig(lr=0.1, weight_decay=0.5, optimizer="adamw")).context()
    shared = nn.Linear(1, 1)
    router = nn.Linear(1, 1)
    optimizer = student_optimizer(
        ctx, nn.Sequential(shared), shared, groups=[ParamGroup(parameters=[*router.parameters()], lr_scale=2.0)]
    )
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.5]


def test_gradients_of_all_groups_are_clipped_together() -> None:
    first, second = Scalar(), Scalar()
    ctx = Toy(schedule=ScheduleConfig(private_steps=1, lr=1.0, momentum=0.0, clip_norm=1.0)).context(1)
    train_round(
        ctx,
        nn.ModuleList([first, second]),
        student_optimizer(ctx, first, groups=[ParamGroup(parameters=[second.w])]),
        order="private_then_distil",
        private=lambda index: 3 * first.w + 4 * second.w,
        distil=None,
        num_targets=0,
    )
    assert (first.w.item(), second.w.item()) == pytest.approx((-0.6, -0.8), abs=1e-5)

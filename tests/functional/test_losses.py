import functools
import math
from typing import Any

import pytest
import torch

from fedkd.functional.losses import (
    bucket_log_probs,
    class_sums,
    mae_rows,
    masked_mean,
    mse_rows,
    soft_cross_entropy_rows,
    soft_target_loss,
    soft_target_rows,
)

LN2, LN3 = math.log(2), math.log(3)
KL_THREE_QUARTERS = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # KL([.75, .25] || [.5, .5])


@pytest.mark.parametrize(("tau", "expected"), [(1.0, KL_THREE_QUARTERS), (2.0, 4 * KL_THREE_QUARTERS)])
def test_kl_of_two_known_distributions(tau: float, expected: float) -> None:
    teacher, student = torch.tensor([[tau * LN3, 0.0]]), torch.zeros(1, 2)
    assert soft_target_loss(student, teacher, temperature=tau).item() == pytest.approx(expected, rel=1e-6)


def test_the_teacher_comes_first_in_the_divergence() -> None:
    teacher, student = torch.zeros(1, 2), torch.tensor([[LN3, 0.0]])
    swapped = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert soft_target_loss(student, teacher, temperature=1.0).item() == pytest.approx(swapped, rel=1e-6)
    assert swapped != pytest.approx(KL_THREE_QUARTERS, rel=0.05)


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_the_gradient_is_tau_times_the_difference_of_the_softened(tau: float) -> None:
    student = torch.zeros(2, 2, requires_grad=True)
    teacher = torch.tensor([[tau * LN3, 0.0], [0.0, 0.0]])
    soft_target_loss(student, teacher, temperature=tau).backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, tau * torch.tensor([[-0.125, 0.125], [0.0, 0.0]]))  # mean over two rows


def test_equal_logits_have_no_divergence() -> None:
    logits = torch.tensor([[1.0, -3.0, 0.5], [40.0, -40.0, 0.0]])
    torch.testing.assert_close(soft_target_rows(logits, logits.softmax(-1), temperature=1.0), torch.zeros(2))


def test_a_one_hot_target_costs_minus_log_likelihood() -> None:
    rows = soft_target_rows(torch.zeros(1, 4), torch.tensor([[0.0, 0.0, 1.0, 0.0]]), temperature=1.0)
    assert rows.tolist() == pytest.approx([2 * LN2])


def test_extreme_logits_stay_finite() -> None:
    student = torch.tensor([[65504.0, -65504.0]], requires_grad=True)
    loss = soft_target_loss(student, -student.detach(), temperature=1.0)
    loss.backward()
    assert loss.item() == pytest.approx(2 * 65504.0)
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_targets_a_little_below_zero_stay_finite() -> None:
    # The border lets rounding pass; minus infinity as a loss would end the client.
    rows = soft_target_rows(torch.zeros(1, 2), torch.tensor([[1.0005, -0.0005]]), temperature=1.0)
    assert rows.tolist() == pytest.approx([LN2], abs=1e-3)


def test_empty_input_gives_zero_with_a_gradient_path() -> None:
    student = torch.zeros(0, 3, requires_grad=True)
    loss = soft_target_loss(student, torch.zeros(0, 3), temperature=2.0)
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad is not None
    assert student.grad.shape == (0, 3)


@pytest.mark.parametrize(("tau", "factor"), [(1.0, 1.0), (2.0, 4.0)])
def test_soft_cross_entropy_by_hand(tau: float, factor: float) -> None:
    student, target = torch.tensor([[tau * LN3, 0.0], [0.0, 0.0]]), torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    rows = soft_cross_entropy_rows(student, target, temperature=tau)
    first = -0.5 * math.log(0.75) - 0.5 * math.log(0.25)
    assert rows.tolist() == pytest.approx([factor * first, factor * LN2], rel=1e-6)


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_soft_cross_entropy_has_the_gradient_of_kl_and_adds_the_entropy_of_the_target(tau: float) -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -7.0]])
    target = torch.tensor([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]])
    gradients, losses = [], []
    for loss in (soft_target_rows, soft_cross_entropy_rows):
        student = logits.clone().requires_grad_()
        rows = loss(student, target, temperature=tau)
        rows.sum().backward()
        assert student.grad is not None
        gradients.append(student.grad)
        losses.append(rows.detach())
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(gradients[0], tau * ((logits / tau).softmax(-1) - target))
    entropy = torch.special.entr(target).sum(-1)
    torch.testing.assert_close(losses[1] - losses[0], tau**2 * entropy)


def test_differences_of_logits_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 7.0], [0.0] * 3])
    assert mse_rows(student, teacher).tolist() == pytest.approx([(0 + 4 + 16) / 3, 0])
    assert mae_rows(student, teacher).tolist() == pytest.approx([(0 + 2 + 4) / 3, 0])


@pytest.mark.parametrize(("loss", "slope"), [(mse_rows, [-2 / 3 * 2, 2 / 3]), (mae_rows, [-1 / 3, 1 / 3])])
def test_gradients_of_differences_of_logits(loss: Any, slope: list[float]) -> None:
    student = torch.tensor([[0.0, 1.0, 5.0]], requires_grad=True)
    loss(student, torch.tensor([[2.0, 0.0, 5.0]])).sum().backward()
    assert student.grad is not None
    assert student.grad[0].tolist() == pytest.approx([*slope, 0.0])


@pytest.mark.parametrize("loss", [mse_rows, mae_rows])
def test_no_rows_have_no_loss(loss: Any) -> None:
    assert loss(torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0,)


def test_masked_mean_divides_by_what_is_kept() -> None:
    values = torch.tensor([1.0, 2.0, 9.0])
    assert masked_mean(values, torch.tensor([True, True, False])).item() == 1.5


def test_masked_mean_of_nothing_is_zero_with_a_gradient_path() -> None:
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    mean = masked_mean(values, torch.tensor([False, False]))
    mean.backward()
    assert mean.item() == 0.0
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 0.0]


def test_class_sums_by_hand() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    sums, counts = class_sums(logits, torch.tensor([2, 2, 0]), num_classes=4)
    assert sums.tolist() == [[5.0, 6.0], [0.0, 0.0], [4.0, 6.0], [0.0, 0.0]]
    assert counts.tolist() == [1.0, 0.0, 2.0, 0.0]


def test_class_sums_of_batches_add_up_and_an_empty_batch_adds_nothing() -> None:
    logits, labels = torch.arange(12.0).reshape(4, 3), torch.tensor([0, 2, 1, 2])
    whole = class_sums(logits, labels, num_classes=3)
    parts = [class_sums(logits[at], labels[at], num_classes=3) for at in (slice(0, 3), slice(3, 4), slice(4, 4))]
    for total, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(total, sum(pieces[1:], start=pieces[0]))


LOSSES_ON_ROWS = [
    (functools.partial(soft_target_rows, temperature=2.0), True),
    (functools.partial(soft_cross_entropy_rows, temperature=2.0), True),
    (mse_rows, False),
    (mae_rows, False),
]


@pytest.mark.parametrize(("loss", "is_soft"), LOSSES_ON_ROWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_dropped_column_is_as_if_it_were_not_there(loss: Any, is_soft: bool, dtype: torch.dtype) -> None:
    logits = torch.tensor([[1.0, 9.0, -2.0], [0.5, -3.0, 4.0]], dtype=dtype, requires_grad=True)
    target = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 3.0]], dtype=dtype)
    keep = torch.tensor([[True, False, True], [True, True, True]])
    if is_soft:
        target = target.masked_fill(~keep, -torch.inf).softmax(-1)
    rows = loss(logits, target, keep=keep)
    narrow = loss(logits[:1, [0, 2]], target[:1, [0, 2]])
    torch.testing.assert_close(rows[:1], narrow)
    torch.testing.assert_close(rows[1:], loss(logits[1:], target[1:]))
    (gradient,) = torch.autograd.grad(rows.float().sum(), logits)
    assert gradient.isfinite().all()
    assert gradient[0, 1] == 0
    assert gradient[0, 0] != 0


@pytest.mark.parametrize(("loss", "_"), LOSSES_ON_ROWS)
def test_a_row_without_a_column_costs_nothing(loss: Any, _: bool) -> None:
    logits = torch.ones(1, 2, requires_grad=True)
    rows = loss(logits, torch.zeros(1, 2), keep=torch.zeros(1, 2, dtype=torch.bool))
    assert rows.tolist() == [0]
    assert torch.autograd.grad(rows.sum(), logits)[0].tolist() == [[0, 0]]


def test_buckets_by_hand() -> None:
    logits = torch.tensor([[math.log(0.1), math.log(0.5), math.log(0.15), math.log(0.25)]]) + 3
    found = bucket_log_probs(logits, torch.tensor([[1, 3]])).exp()
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.25, 0.25]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_buckets_are_a_distribution_with_finite_gradients(dtype: torch.dtype) -> None:
    logits = torch.tensor([[90.0, -90.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    found = bucket_log_probs(logits, torch.tensor([[0, 1], [2, 3]]))
    torch.testing.assert_close(found.float().exp().sum(-1), torch.ones(2), rtol=1e-3, atol=1e-3)
    (gradient,) = torch.autograd.grad(found.float().sum(), logits)
    assert gradient.isfinite().all()
    torch.testing.assert_close(gradient.float().sum(-1), torch.zeros(2), atol=1e-2, rtol=0)
    assert bucket_log_probs(logits[:0], torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 3)

import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.functional import mst_distill as maths
from fedkd.functional.mst_distill import (
    decayed,
    gate_probs,
    load_balance_cv,
    load_balance_kl,
    routing_frequency,
    top_picks,
)

# The temperature of the paper, unless a test says another.
cotraining_loss = partial(maths.cotraining_loss, temperature=4.0)
mask_loss = partial(maths.mask_loss, temperature=4.0)
mixture_loss = partial(maths.mixture_loss, temperature=4.0)
mutual_kl = partial(maths.mutual_kl, temperature=4.0)
routed_loss = partial(maths.routed_loss, temperature=4.0)
softened_kl = partial(maths.softened_kl, temperature=4.0)
softened_kl_rows = partial(maths.softened_kl_rows, temperature=4.0)

LN2, LN3 = math.log(2), math.log(3)
KL_THREE_QUARTERS = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # KL([.75, .25] || [.5, .5])


def wave(*shape: int, phase: float, step: float, size: float) -> Tensor:
    flat = size * torch.sin(step * torch.arange(math.prod(shape), dtype=torch.float64) + phase)
    return flat.reshape(shape)


TEACHERS = torch.stack([wave(5, 4, phase=phase, step=0.8, size=3) for phase in (0.1, 0.9, 1.7, 2.5)])
STUDENT = wave(5, 4, phase=0.4, step=0.6, size=2)
GATE_LOGITS = wave(5, 4, phase=0.0, step=1.1, size=2)
Q = gate_probs(GATE_LOGITS)


def logits(*shape: int, seed: int = 0, size: float = 2.0) -> Tensor:
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The specification's fixed tensors: the authors' functions gave these numbers.


def test_golden_divergence() -> None:
    assert softened_kl(STUDENT, TEACHERS[0]).item() == pytest.approx(0.52507154, abs=5e-9)


@pytest.mark.parametrize(
    ("k", "expected", "picks"),
    [(1, 1.80752217, [[1], [3], [0], [1], [3]]), (2, 2.30478916, [[1, 2], [3, 2], [0, 3], [1, 0], [3, 2]])],
)
def test_golden_routed_loss(k: int, expected: float, picks: list[list[int]]) -> None:
    loss, found = routed_loss(STUDENT, TEACHERS, Q, k=k)
    assert loss.item() == pytest.approx(expected, abs=5e-9)
    assert found.tolist() == picks


def test_golden_mixture() -> None:
    assert mixture_loss(STUDENT, TEACHERS, Q).item() == pytest.approx(1.85189799, abs=5e-9)


def test_golden_load_balance() -> None:
    assert load_balance_kl(Q).item() == pytest.approx(0.00092010887, abs=5e-12)
    assert load_balance_cv(Q).item() == pytest.approx(0.10131379, abs=5e-9)


# KL4


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_divergence_by_hand(temperature: float) -> None:
    teacher, student = torch.tensor([[temperature * LN3, 0.0], [0.0, 0.0]]), torch.zeros(2, 2)
    rows = softened_kl_rows(student, teacher, temperature=temperature)
    assert rows.tolist() == pytest.approx([temperature**2 * KL_THREE_QUARTERS, 0.0], rel=1e-6)
    assert softened_kl(student, teacher, temperature=temperature).item() == pytest.approx(rows.sum().item() / 2)


def test_the_gradient_reaches_both_sides() -> None:
    student, teacher = STUDENT.clone().requires_grad_(), TEACHERS[0].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: softened_kl(s, t), (student, teacher))


def test_a_probability_that_underflows_leaves_the_gradients_finite() -> None:
    student, teacher = torch.zeros(1, 2, requires_grad=True), torch.tensor([[4000.0, -4000.0]], requires_grad=True)
    loss = softened_kl(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(16 * LN2)
    for side in (student, teacher):
        assert side.grad is not None
        assert side.grad.isfinite().all()


def test_dense_outputs_are_averaged_over_positions() -> None:
    student, teacher = logits(3, 5, 2, 4), logits(3, 5, 2, 4, seed=1)
    by_position = [softened_kl_rows(student[..., i, j], teacher[..., i, j]) for i in range(2) for j in range(4)]
    torch.testing.assert_close(softened_kl_rows(student, teacher), torch.stack(by_position).mean(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite(dtype: torch.dtype) -> None:
    student = torch.tensor([[60000.0, -60000.0]], dtype=dtype, requires_grad=True)
    loss, _ = routed_loss(student, torch.stack([-student.detach()] * 2), gate_probs(student), k=2, gate_grad="weighted")
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert load_balance_kl(gate_probs(student)).isfinite()


# Stage 1 and 2


def test_mutual_divergence_counts_the_six_ordered_pairs_and_detaches_none() -> None:
    three = [logits(4, 3, seed=seed).requires_grad_() for seed in range(3)]
    t, a, s = three
    pairs = [(t, a), (t, s), (a, t), (a, s), (s, t), (s, a)]
    torch.testing.assert_close(mutual_kl(three), sum(softened_kl(left, right) for left, right in pairs))
    # With T in a target alone, T still moves: its gradient differs from that of the pairs in which T is pulled.
    whole = torch.autograd.grad(mutual_kl(three), t)[0]
    pulled = torch.autograd.grad(softened_kl(t, a) + softened_kl(t, s), t)[0]
    assert not torch.allclose(whole, pulled)


def test_cotraining_loss_by_hand() -> None:
    sure, unsure = torch.tensor([[4 * LN3, 0.0]]), torch.zeros(1, 2)
    labels = torch.tensor([0])
    swapped = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    tasks = math.log(1 + 3.0**-4) + 2 * LN2
    # Pairs: two with the sure one as target, two towards it, two among equals.
    expected = tasks + 16 * 2 * (KL_THREE_QUARTERS + swapped)
    assert cotraining_loss([sure, unsure, unsure], labels).item() == pytest.approx(expected, rel=1e-6)


def test_the_mask_loss_moves_the_teacher_alone() -> None:
    teacher, student = TEACHERS[0].clone().requires_grad_(), STUDENT.clone().requires_grad_()
    loss = mask_loss(teacher, student)
    assert loss.item() == pytest.approx(softened_kl(teacher, student).item())
    assert loss.item() != pytest.approx(softened_kl(student, teacher).item(), rel=1e-3)
    loss.backward()
    assert teacher.grad is not None
    assert student.grad is None


# Stage 3: the gate


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_gate_gets_nothing_from_the_plain_loss(k: int) -> None:
    gate = GATE_LOGITS.clone().requires_grad_()
    student = STUDENT.clone().requires_grad_()
    loss, _ = routed_loss(student, TEACHERS, gate_probs(gate), k=k)
    assert torch.autograd.grad(loss, gate, allow_unused=True)[0] is None


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_gate_learns_from_the_weighted_loss(k: int) -> None:
    gate = GATE_LOGITS.clone().requires_grad_()
    loss, picks = routed_loss(STUDENT, TEACHERS, gate_probs(gate), k=k, gate_grad="weighted")
    (slope,) = torch.autograd.grad(loss, gate)
    compared = gate_probs(gate).topk(max(k, 2)).indices
    for row in range(5):
        # Among the teachers compared, that with the larger divergence loses; nobody else moves.
        others = [teacher for teacher in range(4) if teacher not in compared[row]]
        assert slope[row, others].abs().max() < 1e-12 if others else True
        costs = {int(j): softened_kl(STUDENT[row : row + 1], TEACHERS[j][row : row + 1]).item() for j in compared[row]}
        assert slope[row, max(costs, key=lambda j: costs[j])] > 0
        assert slope[row, min(costs, key=lambda j: costs[j])] < 0
    assert picks.shape == (5, k)


def test_one_weighted_pick_has_the_plain_value_and_student_gradient() -> None:
    student = STUDENT.clone().requires_grad_()
    plain, _ = routed_loss(student, TEACHERS, Q, k=1)
    weighted, picks = routed_loss(student, TEACHERS, Q, k=1, gate_grad="weighted")
    assert weighted.item() == pytest.approx(plain.item(), rel=1e-12)
    assert picks.tolist() == [[1], [3], [0], [1], [3]]
    torch.testing.assert_close(torch.autograd.grad(weighted, student)[0], torch.autograd.grad(plain, student)[0])


def test_two_weighted_picks_by_hand() -> None:
    probs = torch.tensor([[0.1, 0.6, 0.3]])
    teachers = torch.tensor([[[0.0, 0.0]], [[4 * LN3, 0.0]], [[0.0, 0.0]]])
    loss, picks = routed_loss(torch.zeros(1, 2), teachers, probs, k=2, gate_grad="weighted")
    assert picks.tolist() == [[1, 2]]
    assert loss.item() == pytest.approx(0.6 / 0.9 * 16 * KL_THREE_QUARTERS, rel=1e-6)


def test_equal_gate_probabilities_make_the_weighted_loss_plain() -> None:
    even = torch.full((5, 4), 0.25, dtype=torch.float64)
    weighted, plain = (routed_loss(STUDENT, TEACHERS, even, k=3, gate_grad=how)[0] for how in ("weighted", "none"))
    assert weighted.item() == pytest.approx(plain.item(), rel=1e-12)


@pytest.mark.parametrize("loss", [lambda *a, **o: routed_loss(*a, k=2, **o)[0], mixture_loss])
@pytest.mark.parametrize("gate_grad", ["none", "weighted"])
def test_teachers_take_no_gradient(loss: Any, gate_grad: str) -> None:
    teachers, student = TEACHERS.clone().requires_grad_(), STUDENT.clone().requires_grad_()
    loss(student, teachers, Q, gate_grad=gate_grad).backward()
    assert teachers.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


def test_a_gradient_through_the_mixture_only_where_asked() -> None:
    gate = GATE_LOGITS.clone().requires_grad_()
    assert not mixture_loss(STUDENT, TEACHERS, gate_probs(gate)).requires_grad
    (slope,) = torch.autograd.grad(mixture_loss(STUDENT, TEACHERS, gate_probs(gate), gate_grad="weighted"), gate)
    assert slope.abs().max() > 1e-3


def test_the_mixture_is_of_logits_not_probabilities() -> None:
    teachers = torch.tensor([[[8 * LN3, 0.0]], [[0.0, 0.0]]])
    loss = mixture_loss(torch.zeros(1, 2), teachers, torch.tensor([[0.5, 0.5]]))
    assert loss.item() == pytest.approx(16 * KL_THREE_QUARTERS, rel=1e-6)


def test_all_teachers_where_there_are_fewer_than_k() -> None:
    assert top_picks(torch.ones(3, 1), k=2).tolist() == [[0], [0], [0]]
    loss, picks = routed_loss(STUDENT, TEACHERS[:1], torch.ones(5, 1), k=1, gate_grad="weighted")
    assert loss.item() == pytest.approx(0.52507154, abs=5e-9)
    assert picks.shape == (5, 1)
    with pytest.raises(ValueError, match="k is 0"):
        top_picks(Q, k=0)


def test_dense_teachers_are_routed_per_image() -> None:
    student, teachers, probs = logits(3, 5, 2, 2), logits(4, 3, 5, 2, 2, seed=1), gate_probs(logits(3, 4, seed=2))
    loss, picks = routed_loss(student, teachers, probs, k=1)
    rows = [softened_kl(student[i : i + 1], teachers[picks[i, 0], i : i + 1]) for i in range(3)]
    torch.testing.assert_close(loss, torch.stack(rows).mean())
    mixed = sum(probs[:, j, None, None, None] * teachers[j] for j in range(4))
    torch.testing.assert_close(mixture_loss(student, teachers, probs), softened_kl(student, mixed))


@given(seed=st.integers(0, 10_000), n=st.integers(1, 6), e=st.integers(1, 5), c=st.integers(2, 6))
def test_renaming_the_teachers_changes_nothing(seed: int, n: int, e: int, c: int) -> None:
    student, teachers, gate = logits(n, c, seed=seed), logits(e, n, c, seed=seed + 1), logits(n, e, seed=seed + 2)
    order = torch.randperm(e, generator=torch.Generator().manual_seed(seed))
    for gate_grad in ("none", "weighted"):
        k = 1 + seed % e
        loss, picks = routed_loss(student, teachers, gate_probs(gate), k=k, gate_grad=gate_grad)
        other, other_picks = routed_loss(student, teachers[order], gate_probs(gate[:, order]), k=k, gate_grad=gate_grad)
        assert torch.equal(order[other_picks], picks)
        torch.testing.assert_close(other, loss)
        assert loss >= 0


# Load balance


def test_load_balance_by_hand() -> None:
    probs = torch.tensor([[1.0, 0.0], [0.5, 0.5]])  # mean .75, .25; sums 1.5, .5
    true_kl = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert load_balance_kl(probs).item() == pytest.approx(true_kl / 2, rel=1e-6)
    assert load_balance_cv(probs).item() == pytest.approx(math.sqrt(0.5), rel=1e-6)  # std of 1.5, .5 unbiased, over 1


@pytest.mark.parametrize("loss", [load_balance_kl, load_balance_cv])
def test_equal_shares_cost_nothing_even_where_single_rows_are_sure(loss: Any) -> None:
    probs = torch.eye(4, dtype=torch.float64).requires_grad_()
    found = loss(probs)
    found.backward()
    assert found.item() == pytest.approx(0.0, abs=1e-15)
    assert probs.grad is not None
    assert probs.grad.isfinite().all()


@pytest.mark.parametrize("loss", [load_balance_kl, load_balance_cv])
def test_load_balance_alone_evens_the_gate_out(loss: Any) -> None:
    gate = torch.nn.Linear(4, 4).double()
    with torch.no_grad():
        gate.weight.copy_(logits(4, 4, seed=3, size=0.3))
        gate.bias.copy_(torch.tensor([2.0, -1.0, 0.5, 0.0]))
    inputs = logits(64, 4, seed=4, size=1.0)
    assert gate_probs(gate(inputs)).mean(0).max() > 0.5
    optimizer = torch.optim.Adam(gate.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        loss(gate_probs(gate(inputs))).backward()
        optimizer.step()
    assert (gate_probs(gate(inputs)).mean(0) - 0.25).abs().max() < 1e-2


def test_a_teacher_that_nobody_wants_costs_much_but_not_infinity() -> None:
    gate = torch.tensor([[0.0, -1000.0]], requires_grad=True)
    loss = load_balance_kl(gate_probs(gate))
    loss.backward()
    assert 10 < loss.item() < 100
    assert gate.grad is not None
    assert gate.grad.isfinite().all()


@pytest.mark.parametrize("loss", [load_balance_kl, load_balance_cv])
def test_a_single_teacher_is_balanced(loss: Any) -> None:
    assert loss(torch.ones(3, 1)).item() == 0.0


# Everything


def test_no_samples_give_zero_with_a_gradient_path() -> None:
    student, gate = torch.zeros(0, 3, requires_grad=True), torch.zeros(0, 4, requires_grad=True)
    teachers, q = torch.zeros(4, 0, 3), gate_probs(gate)
    found = [
        cotraining_loss([student, student, student], torch.zeros(0, dtype=torch.long)),
        mask_loss(student, torch.zeros(0, 3)),
        routed_loss(student, teachers, q, k=1)[0],
        routed_loss(student, teachers, q, k=1, gate_grad="weighted")[0],
        mixture_loss(student, teachers, q),
        load_balance_kl(q),
        load_balance_cv(q),
    ]
    for loss in found:
        assert loss.item() == 0.0
        loss.backward(retain_graph=True)
    assert student.grad is not None
    assert gate.grad is not None


def test_weights_decay_after_the_first_epoch_too() -> None:
    w_kl = w_lb = 1.0
    for epoch in range(95):
        assert decayed(1.0, epoch=epoch, factor=0.5, every=30) == w_kl
        assert decayed(1.0, epoch=epoch, factor=0.9, every=10) == pytest.approx(w_lb, rel=1e-12)
        w_lb *= 0.9 if epoch % 10 == 0 else 1
        w_kl *= 0.5 if epoch % 30 == 0 else 1
    assert w_kl == 1 / 16
    assert decayed(0.7, epoch=1000, factor=0.5, every=0) == 0.7


def test_routing_frequency_counts_every_pick() -> None:
    picks = torch.tensor([[0, 2], [2, 0], [2, 3], [2, 1]])
    assert routing_frequency(picks, num_teachers=5).tolist() == [0.25, 0.125, 0.5, 0.125, 0.0]
    assert routing_frequency(picks[:0], num_teachers=2).tolist() == [0.0, 0.0]

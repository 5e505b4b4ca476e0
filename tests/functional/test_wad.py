import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.functional.wad import (
    class_scores,
    cross_entropy_rows,
    margin_weights,
    nt_xent,
    positions,
    promoted,
    promotion_share,
    pseudo_labels,
    student_loss,
    unit_rows,
    weighted_cross_entropy,
    weighted_divergence,
)

LN2, LN3 = math.log(2), math.log(3)
INF = math.inf


def wave(shape: tuple[int, int], phase: float, frequency: float, size: float) -> torch.Tensor:
    """The specification's fixed numbers: size * sin(frequency * position + phase), row by row, float64."""
    at = torch.arange(math.prod(shape), dtype=torch.float64)
    return (size * torch.sin(frequency * at + phase)).reshape(shape)


def random_rows(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Contrastive loss


def test_nt_xent_of_the_specification() -> None:
    rows = unit_rows(wave((8, 5), 0.3, 0.77, 1))
    assert nt_xent(rows, temperature=0.5).item() == pytest.approx(4.3345728, abs=1e-6)
    assert nt_xent(rows.float(), temperature=0.5).item() == pytest.approx(4.3345728, abs=1e-5)


def test_nt_xent_by_hand() -> None:
    # Two images, each view equal to its partner and at right angles to the other image: 1 of e^(1/tau) + 2.
    rows = torch.eye(2).repeat(2, 1)
    expected = -math.log(math.e**2 / (math.e**2 + 2))
    assert nt_xent(rows, temperature=0.5).item() == pytest.approx(expected, rel=1e-6)


def test_the_partner_is_half_the_rows_away() -> None:
    rows = torch.eye(2).repeat_interleave(2, 0)  # partners side by side: the wrong order
    expected = -math.log(1 / (math.e**2 + 2))
    assert nt_xent(rows, temperature=0.5).item() == pytest.approx(expected, rel=1e-6)


def test_a_single_image_has_nothing_to_be_told_from() -> None:
    assert nt_xent(unit_rows(random_rows(0, 2, 3))).item() == pytest.approx(0.0, abs=1e-6)


def test_eps_bounds_the_loss_whatever_the_temperature() -> None:
    rows = torch.eye(2).repeat_interleave(2, 0).requires_grad_()
    loss = nt_xent(rows, temperature=0.001)  # e^1000 overflows float32
    torch.autograd.backward(loss)
    assert loss.item() == pytest.approx(-math.log(1e-8), rel=1e-6)
    assert rows.grad is not None
    assert rows.grad.isfinite().all()


def test_eps_counts_in_the_denominator() -> None:
    # All cosines are -1 or 1; at tau = 1 the share is e / (e + 2 / e + eps).
    rows = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64)
    expected = -math.log(math.e / (math.e + 2 / math.e + 0.5) + 0.5)
    assert nt_xent(rows, temperature=1.0, eps=0.5).item() == pytest.approx(expected, rel=1e-12)


def test_nt_xent_without_eps_is_cross_entropy_over_the_other_views() -> None:
    rows = unit_rows(random_rows(1, 10, 4).double())
    cosines = rows @ rows.T / 0.3
    logits = cosines.masked_fill(torch.eye(10, dtype=torch.bool), -INF)
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(10).roll(5))
    assert nt_xent(rows, temperature=0.3, eps=0.0).item() == pytest.approx(expected.item(), rel=1e-12)


@given(seed=st.integers(0, 1000), n=st.integers(1, 6))
def test_neither_the_order_of_the_images_nor_of_the_views_matters(seed: int, n: int) -> None:
    rows = unit_rows(random_rows(seed, 2 * n, 3).double())
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    mixed = torch.cat([rows[n:][order], rows[:n][order]])
    assert nt_xent(mixed).item() == pytest.approx(nt_xent(rows).item(), rel=1e-12, abs=1e-12)


def test_nt_xent_of_nothing_is_zero_with_a_gradient_path() -> None:
    rows = torch.zeros(0, 3, requires_grad=True)
    loss = nt_xent(rows)
    torch.autograd.backward(loss)
    assert loss.item() == 0
    assert rows.grad is not None


def test_an_image_without_its_second_view_is_refused() -> None:
    with pytest.raises(ValueError, match="expected two views of each image"):
        nt_xent(torch.zeros(3, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite(dtype: torch.dtype) -> None:
    rows = random_rows(2, 8, 4).to(dtype).requires_grad_()
    loss = nt_xent(unit_rows(rows), temperature=0.05)
    torch.autograd.backward(loss)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert rows.grad is not None
    assert rows.grad.isfinite().all()


# Scores, pseudo labels, weights


def test_scores_are_those_of_the_nearest_item_not_of_the_class_mean() -> None:
    # The mean of class 0 is orthogonal to the item, one of its items points the same way.
    labelled = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [1.0, 1.0]])
    scores = class_scores(torch.tensor([[2.0, 0.0]]), labelled, torch.tensor([0, 0, 1]), num_classes=2)
    torch.testing.assert_close(scores, torch.tensor([[1.0, math.sqrt(0.5)]]))


def test_negative_cosines_count() -> None:
    scores = class_scores(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]]), torch.tensor([1]), num_classes=2)
    assert scores.tolist() == [[-INF, -1.0]]


def test_a_row_of_zeros_is_unrelated_to_all() -> None:
    scores = class_scores(torch.zeros(1, 2), torch.eye(2), torch.tensor([0, 1]), num_classes=2)
    assert scores.tolist() == [[0.0, 0.0]]
    assert margin_weights(scores).tolist() == [0.0]  # the quotient of the authors' form would be NaN


def test_no_unlabelled_items_have_no_scores() -> None:
    scores = class_scores(torch.zeros(0, 2), torch.eye(2), torch.tensor([0, 1]), num_classes=3)
    assert scores.shape == (0, 3)
    assert pseudo_labels(scores).shape == margin_weights(scores).shape == (0,)


def test_a_class_without_labelled_items_is_never_the_pseudo_label_and_does_not_count_as_runner_up() -> None:
    scores = torch.tensor([[-INF, -0.9, -0.2], [-INF, 0.6, 0.1]])
    assert pseudo_labels(scores).tolist() == [2, 1]
    assert margin_weights(scores).tolist() == pytest.approx([0.7, 0.5])


@pytest.mark.parametrize("scores", [[[-INF, 0.6], [-INF, -0.6]], [[0.6], [-0.6]]])
def test_with_one_class_the_weight_is_the_cosine_itself(scores: list[list[float]]) -> None:
    assert margin_weights(torch.tensor(scores)).tolist() == pytest.approx([0.6, 0.0])


@pytest.mark.parametrize("function", [pseudo_labels, margin_weights])
def test_without_labelled_items_there_is_nothing_to_say(function: Any) -> None:
    scores = class_scores(torch.ones(2, 2), torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), num_classes=3)
    with pytest.raises(ValueError, match="labelled item"):
        function(scores)


def test_weights_of_the_specification() -> None:
    scores = 0.5 * wave((6, 3), 0.5, 0.9, 1) + 0.3
    expected = [0.119872, 0.379951, 0.247027, 0.404774, 0.433445, 0.133863]
    weights = margin_weights(scores)
    assert weights.tolist() == pytest.approx(expected, abs=1e-6)
    second, best = scores.sort(dim=1).values[:, -2:].unbind(1)
    torch.testing.assert_close(weights, best * (1 - second / best))


@given(seed=st.integers(0, 1000), c=st.integers(2, 6))
def test_weights_of_cosines_lie_in_0_to_2_and_ignore_a_common_shift(seed: int, c: int) -> None:
    scores = class_scores(
        random_rows(seed, 5, 3).double(), random_rows(seed + 1, c, 3).double(), torch.arange(c), num_classes=c
    )
    weights = margin_weights(scores)
    assert ((weights >= 0) & (weights <= 2)).all()
    torch.testing.assert_close(margin_weights(scores - 0.3), weights)
    torch.testing.assert_close(margin_weights(scores[:, torch.randperm(c)]), weights)


def test_equal_scores_take_the_first_class_and_weigh_nothing() -> None:
    scores = torch.tensor([[0.1, 0.7, 0.7]])
    assert pseudo_labels(scores).item() == 1
    assert margin_weights(scores).item() == 0


def test_weights_carry_no_gradient() -> None:
    assert not margin_weights(torch.tensor([[0.3, 0.1]], requires_grad=True)).requires_grad


# Losses


def test_the_student_loss_by_hand() -> None:
    labelled, labels = torch.tensor([[LN3, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    unlabelled, pseudo = torch.tensor([[0.0, 0.0], [0.0, LN3]]), torch.tensor([0, 0])
    own = (-math.log(0.75) + LN2) / 2
    pool = (0.5 * LN2 + 2.0 * -math.log(0.25)) / 2  # over the batch size, not over the sum of the weights
    weights = torch.tensor([0.5, 2.0])
    loss = student_loss(labelled, labels, unlabelled, pseudo, weights)
    assert loss.item() == pytest.approx(own + pool, rel=1e-6)
    assert weighted_cross_entropy(unlabelled, pseudo, weights).item() == pytest.approx(pool, rel=1e-6)


def test_items_of_weight_zero_teach_nothing() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    torch.autograd.backward(weighted_cross_entropy(logits, torch.tensor([0, 1]), torch.tensor([0.0, 1.0])))
    assert logits.grad is not None
    assert logits.grad[0].tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(logits.grad[1], torch.tensor([1 / 6, -1 / 3, 1 / 6]))


@pytest.mark.parametrize(("own", "pool"), [(0, 2), (2, 0), (0, 0)])
def test_a_part_without_rows_counts_nothing(own: int, pool: int) -> None:
    logits = torch.zeros(4, 2, requires_grad=True)
    labels, weights = torch.zeros(2, dtype=torch.long), torch.ones(2)
    loss = student_loss(logits[:own], labels[:own], logits[2 : 2 + pool], labels[:pool], weights[:pool])
    torch.autograd.backward(loss)
    assert loss.item() == pytest.approx(LN2 * bool(own) + LN2 * bool(pool))
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_the_divergence_from_the_peers_by_hand() -> None:
    student, teacher = torch.zeros(2, 2), torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # KL(teacher || student)
    loss = weighted_divergence(student, teacher, torch.tensor([3.0, 5.0]))
    assert loss.item() == pytest.approx(3 * kl / 2, rel=1e-6)


def test_the_divergence_runs_over_the_columns_that_are_heard() -> None:
    student, teacher = torch.tensor([[0.0, 0.0, 7.0]]), torch.tensor([[0.75, 0.25, 0.0]])
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    loss = weighted_divergence(student, teacher, torch.ones(1), keep=torch.tensor([[True, True, False]]))
    assert loss.item() == pytest.approx(kl, rel=1e-6)


def test_peers_and_weights_are_not_taught() -> None:
    student, teacher, weights = (torch.ones(1, 2, requires_grad=True) for _ in range(3))
    torch.autograd.backward(weighted_divergence(student, teacher, weights[:, 0]))
    assert student.grad is not None
    assert teacher.grad is None
    assert weights.grad is None


def test_large_half_precision_logits_stay_finite() -> None:
    logits = torch.tensor([[60000.0, -60000.0]], dtype=torch.float16, requires_grad=True)
    label, weight = torch.tensor([1]), torch.tensor([1.5])
    loss = student_loss(logits, label, logits, label, weight) + weighted_divergence(
        logits, (-logits).softmax(1), weight
    )
    torch.autograd.backward(loss)
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


# Promotion


def test_the_schedule_of_the_specification() -> None:
    shares = [promotion_share(iteration, alpha=0.1, split=5) for iteration in range(1, 7)]
    assert shares == pytest.approx([0.064, 0.036, 0.016, 0.004, 0.0, 0.0], abs=1e-12)


@pytest.mark.parametrize(("iteration", "split"), [(0, 5), (1, 0)])
def test_iterations_count_from_one(iteration: int, split: int) -> None:
    with pytest.raises(ValueError, match="counted from 1"):
        promotion_share(iteration, alpha=0.1, split=split)


def test_the_smallest_losses_are_promoted_smallest_first() -> None:
    losses, ids = torch.tensor([0.5, 0.1, 0.9, 0.3]), torch.tensor([40, 30, 20, 10])
    assert promoted(losses, ids, share=0.5).tolist() == [30, 10]
    assert promoted(losses, ids, share=0.74).tolist() == [30, 10]  # floor(2.96)
    assert promoted(losses, ids, share=0.24).tolist() == []
    assert promoted(losses, ids, share=1.0).tolist() == [30, 10, 40, 20]


def test_equal_losses_go_by_id_and_nan_goes_last() -> None:
    losses, ids = torch.tensor([math.nan, 0.2, 0.2, 0.2]), torch.tensor([1, 9, 5, 7])
    assert promoted(losses, ids, share=1.0).tolist() == [5, 7, 9, 1]


def test_nothing_is_promoted_from_nothing() -> None:
    assert promoted(torch.zeros(0), torch.zeros(0, dtype=torch.long), share=1.0).tolist() == []


@given(
    losses=st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), max_size=12), share=st.floats(0, 1), seed=st.integers(0, 99)
)
def test_the_order_of_the_rows_does_not_matter_to_who_is_promoted(losses: list[float], share: float, seed: int) -> None:
    n = len(losses)
    values, ids = torch.tensor(losses), torch.arange(n) * 3
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    picked = promoted(values, ids, share=share)
    assert picked.tolist() == promoted(values[order], ids[order], share=share).tolist()
    assert len(picked) == math.floor(share * n)
    left = sorted(set(ids.tolist()) - set(picked.tolist()))
    assert all(losses[a // 3] <= losses[b // 3] for a in picked.tolist() for b in left)


@pytest.mark.parametrize(("ids", "share"), [([1], 0.5), ([1, 2], 1.5), ([1, 2], -0.1)])
def test_a_promotion_that_makes_no_sense_is_refused(ids: list[int], share: float) -> None:
    with pytest.raises(ValueError, match=r"losses|share"):
        promoted(torch.zeros(2), torch.tensor(ids), share=share)


# Ids


@given(st.lists(st.integers(0, 10**9), unique=True, max_size=10), st.integers(0, 99))
def test_positions_bring_rows_together(among: list[int], seed: int) -> None:
    known = torch.tensor(among, dtype=torch.long)
    order = torch.randperm(len(among), generator=torch.Generator().manual_seed(seed))
    assert positions(known[order], among=known).tolist() == order.tolist()


def test_an_unknown_or_doubled_id_is_refused() -> None:
    for ids, among in (([5], [1, 9]), ([99], [1, 9]), ([1], [])):
        with pytest.raises(ValueError, match=rf"1 ids have no row, the first is {ids[0]}"):
            positions(torch.tensor(ids), among=torch.tensor(among, dtype=torch.long))
    with pytest.raises(ValueError, match="twice"):
        positions(torch.tensor([1]), among=torch.tensor([1, 1]))


def test_cross_entropy_by_hand() -> None:
    rows = cross_entropy_rows(torch.tensor([[LN3, 0.0], [LN3, 0.0]]), torch.tensor([0, 1]))
    assert rows.tolist() == pytest.approx([-math.log(0.75), -math.log(0.25)])

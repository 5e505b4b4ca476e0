import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.functional.adaspec import (
    bucket_kl_rows,
    expected_acceptance,
    forward_kl_rows,
    label_mask,
    same_choice,
    select_tokens,
    selected_loss,
    top_threshold,
)
from fedkd.functional.aggregation import LOG_FLOOR
from fedkd.functional.losses import bucket_log_probs
from fedkd.functional.supports import top_support

# Five tokens, three symbols.
TARGET = torch.tensor([[2.0, 0, -1], [0, 1, 0], [1, 1, -2], [3, 0, 0], [0, 0, 2]])
DRAFT = torch.tensor([[0.0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 3, 0], [0, 0, 1]])
REFERENCE = torch.tensor([[1.5, 0, -1], [0, 1, 0.5], [1, 0, 0], [0, 2.5, 0], [0, 0, 2]])
DRAFT_KL = [0.574346, 0.0, 0.272987, 2.592493, 0.098886]
DELTA = [0.555926, -0.022854, 0.0, 0.420275, 0.098886]
KEPT = [True, False, False, True, False]

seeds = st.integers(0, 2**32 - 1)


def deltas(draft: Tensor) -> Tensor:
    return forward_kl_rows(draft, TARGET) - forward_kl_rows(REFERENCE, TARGET)


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def test_divergences_of_five_known_tokens() -> None:
    assert forward_kl_rows(DRAFT, TARGET).tolist() == pytest.approx(DRAFT_KL, abs=2e-6)
    assert deltas(DRAFT).tolist() == pytest.approx(DELTA, abs=2e-6)


def test_filter_of_five_known_tokens() -> None:
    assert top_threshold(deltas(DRAFT), keep_share=0.4).item() == pytest.approx(0.227442, abs=2e-6)
    assert select_tokens(deltas(DRAFT), keep_share=0.4).tolist() == KEPT


@pytest.mark.parametrize(
    ("select", "norm", "expected"),
    [("top", "mean_kept", 1.583420), ("top", "all_tokens", 0.633368), ("all", "mean_kept", 0.707742)],
)
def test_losses_of_five_known_tokens(select: str, norm: str, expected: float) -> None:
    keep = select_tokens(deltas(DRAFT), keep_share=0.4, select=select)
    loss = selected_loss(forward_kl_rows(DRAFT, TARGET), keep, norm=norm)
    assert loss.item() == pytest.approx(expected, abs=2e-6)


def test_a_filter_on_the_loss_alone_would_keep_a_token_that_the_reference_does_not_know_better() -> None:
    by_loss = select_tokens(forward_kl_rows(DRAFT, TARGET), keep_share=0.6)
    assert by_loss[2]
    assert not select_tokens(deltas(DRAFT), keep_share=0.6)[2]


def test_the_target_comes_first_in_the_divergence() -> None:
    target, draft = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert forward_kl_rows(draft, target).item() == pytest.approx(forward, rel=1e-6)
    assert forward_kl_rows(target, draft).item() != pytest.approx(forward, rel=0.05)


def test_a_label_is_the_token_after_its_position() -> None:
    logits = torch.arange(12.0).reshape(2, 3, 2)
    labels = torch.tensor([[-100, 5, -100], [4, -100, -100]])
    assert label_mask(labels).tolist() == [[False, True, False], [True, False, False]]
    assert logits[label_mask(labels)].tolist() == [[2.0, 3.0], [6.0, 7.0]]


@pytest.mark.parametrize("labels", [torch.full((2, 3), -100), torch.full((2, 1), -100)])
def test_no_label_gives_no_rows_and_a_loss_of_zero_with_a_gradient_path(labels: Tensor) -> None:
    logits = random(2, labels.shape[1], 4).requires_grad_()
    rows = logits[label_mask(labels)]
    losses = forward_kl_rows(rows, rows.detach())
    keep = select_tokens(losses.detach(), keep_share=0.4)
    assert keep.shape == (0,)
    for norm in ("mean_kept", "all_tokens"):
        logits.grad = None
        loss = selected_loss(losses, keep, norm=norm)
        loss.backward(retain_graph=True)
        assert loss.item() == 0.0
        assert logits.grad is not None
        assert not logits.grad.any()


@pytest.mark.parametrize(("n", "kept"), [(1, 1), (2, 1), (5, 2), (6, 3), (10, 4), (11, 5), (100, 40)])
def test_number_of_kept_tokens(n: int, kept: int) -> None:
    ranks = torch.from_numpy(np.random.default_rng(0).permutation(n)).float()
    keep = select_tokens(ranks, keep_share=0.4)
    assert keep.sum() == kept == n - math.ceil(0.6 * (n - 1))
    assert keep.equal(ranks >= n - kept)


@given(seed=seeds, n=st.integers(1, 200), keep_share=st.floats(0.0, 1.0))
def test_threshold_is_the_quantile_of_torch(seed: int, n: int, keep_share: float) -> None:
    scores = random(n, seed=seed)
    ours = top_threshold(scores, keep_share=keep_share)
    assert ours.dtype == torch.float32
    # Versions of torch differ in how they round the rank.
    torch.testing.assert_close(ours, torch.quantile(scores, 1 - keep_share), rtol=1e-4, atol=1e-4)


def test_threshold_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no scores"):
        top_threshold(torch.zeros(0), keep_share=0.4)


def test_more_than_16_million_tokens() -> None:
    n = 16_800_001  # above the limit of earlier versions of torch, and above what a float32 counts exactly
    scores = torch.arange(n, dtype=torch.float64).flip(0).div(n).float()
    assert select_tokens(scores, keep_share=0.25).sum().item() == pytest.approx(0.25 * n, rel=1e-6)


def test_ties_at_the_threshold_are_all_kept() -> None:
    assert select_tokens(torch.tensor([1.0, 1, 1, 1, 0]), keep_share=0.4).tolist() == [True] * 4 + [False]
    assert select_tokens(torch.zeros(7), keep_share=0.1).all()  # draft and reference still equal


@given(seed=seeds, n=st.integers(1, 60), select=st.sampled_from(["top", "bottom", "random", "all"]))
def test_at_least_one_token_is_kept_however_small_the_share(seed: int, n: int, select: str) -> None:
    rng = np.random.default_rng(seed)
    for keep_share in (0.0, 1e-9):
        assert select_tokens(random(n, seed=seed), keep_share=keep_share, select=select, rng=rng).any()


@given(seed=seeds, n=st.integers(1, 60), keep_share=st.floats(0.01, 1.0), shift=st.integers(-8, 8))
def test_only_differences_of_deltas_matter(seed: int, n: int, keep_share: float, shift: int) -> None:
    scores = torch.from_numpy(np.random.default_rng(seed).permutation(n)).float()
    keep = select_tokens(scores, keep_share=keep_share)
    order = torch.from_numpy(np.random.default_rng(seed + 1).permutation(n))
    assert select_tokens(scores[order], keep_share=keep_share).equal(keep[order])
    bottom = select_tokens(-scores, keep_share=keep_share, select="bottom")
    assert bottom.equal(keep)
    shifted = select_tokens(scores * 2.0**shift, keep_share=keep_share)
    assert shifted.equal(keep)


def test_top_and_bottom_are_the_two_ends() -> None:
    ranks = torch.tensor([3.0, 0, 4, 1, 2])
    assert select_tokens(ranks, keep_share=0.4).tolist() == [True, False, True, False, False]
    assert select_tokens(ranks, keep_share=0.4, select="bottom").tolist() == [False, True, False, True, False]


def test_random_keeps_as_many_as_top_each_token_equally_often() -> None:
    rng = np.random.default_rng(0)
    draws = torch.stack(
        [select_tokens(torch.arange(10.0), keep_share=0.4, select="random", rng=rng) for _ in range(2000)]
    )
    assert (draws.sum(1) == 4).all()
    assert draws.float().mean(0).tolist() == pytest.approx([0.4] * 10, abs=0.05)


def test_same_generator_same_random_tokens() -> None:
    first, second = (
        select_tokens(torch.zeros(50), keep_share=0.4, select="random", rng=np.random.default_rng(3)) for _ in "ab"
    )
    assert first.equal(second)


def test_random_without_a_generator_and_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="needs rng"):
        select_tokens(torch.zeros(3), keep_share=0.4, select="random")
    with pytest.raises(ValueError, match="middle"):
        select_tokens(torch.zeros(3), keep_share=0.4, select="middle")
    with pytest.raises(ValueError, match="sum"):
        selected_loss(torch.zeros(3), torch.ones(3, dtype=torch.bool), norm="sum")


def test_a_quantile_in_each_sequence() -> None:
    delta = torch.tensor([1.0, 2, 3, 4, 5, 10, 20, 30, 40, 50, -9])
    sequence = torch.tensor([0] * 5 + [3] * 5 + [7])
    over_batch = select_tokens(delta, keep_share=0.4)
    within = select_tokens(delta, keep_share=0.4, sequence=sequence)
    assert over_batch.nonzero()[:, 0].tolist() == [5, 6, 7, 8, 9]
    assert within.nonzero()[:, 0].tolist() == [3, 4, 8, 9, 10]


def test_all_tokens_divides_by_the_tokens_of_the_step() -> None:
    losses, keep = torch.tensor([1.0, 2, 3, 4]), torch.tensor([True, False, False, True])
    assert selected_loss(losses, keep).item() == 2.5
    assert selected_loss(losses, keep, norm="all_tokens").item() == 1.25
    assert selected_loss(losses, keep, norm="all_tokens", num_tokens=10).item() == 0.5


def test_dropped_and_masked_tokens_have_no_gradient_and_target_and_reference_none_at_all() -> None:
    target, draft, reference = (random(2, 6, 5, seed=seed).requires_grad_() for seed in range(3))
    labels = torch.tensor([[-100, -100, 1, 2, 3, -100], [-100, 4, 0, 1, 2, 3]])
    keep = label_mask(labels)
    losses = forward_kl_rows(draft[keep], target[keep])
    behind = forward_kl_rows(reference[keep], target[keep])
    keep = select_tokens(losses - behind, keep_share=0.4)
    selected_loss(losses, keep).backward()
    assert target.grad is None
    assert reference.grad is None
    assert draft.grad is not None
    learns = torch.zeros(2, 6, dtype=torch.bool)
    learns[label_mask(labels)] = keep
    assert (draft.grad[~learns] == 0).all()
    assert draft.grad[learns].abs().sum(-1).min() > 0
    expected = (draft.softmax(-1) - target.softmax(-1))[learns] / keep.sum()
    torch.testing.assert_close(draft.grad[learns], expected.detach())


@pytest.mark.parametrize("norm", ["mean_kept", "all_tokens"])
def test_keeping_everything_is_plain_distillation(norm: str) -> None:
    target, reference = random(30, 7, seed=1), random(30, 7, seed=2)
    results = []
    for select in ("top", "all"):
        draft = random(30, 7, seed=3).requires_grad_()
        losses = forward_kl_rows(draft, target)
        keep = select_tokens(losses - forward_kl_rows(reference, target), keep_share=1.0, select=select)
        loss = selected_loss(losses, keep, norm=norm)
        loss.backward()
        results.append((loss.detach(), draft.grad))
    plain = torch.nn.functional.kl_div(
        random(30, 7, seed=3).log_softmax(-1), target.log_softmax(-1), reduction="batchmean", log_target=True
    )
    assert results[0][0].item() == pytest.approx(plain.item(), abs=1e-6)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_stays_finite(dtype: torch.dtype) -> None:
    draft = torch.tensor([[6e4, -6e4, 0.0], [0.0, 1.0, 2.0]], dtype=dtype, requires_grad=True)
    losses = forward_kl_rows(draft, -draft.detach())
    assert losses.dtype == torch.float32
    selected_loss(losses, torch.ones(2, dtype=torch.bool)).backward()
    assert losses.isfinite().all()
    assert draft.grad is not None
    assert draft.grad.isfinite().all()


def test_a_symbol_that_both_forbid_costs_nothing() -> None:
    draft = torch.tensor([[0.0, 1.0, -torch.inf]], requires_grad=True)
    loss = forward_kl_rows(draft, torch.tensor([[1.0, 0.0, -torch.inf]])).sum()
    loss.backward()
    assert loss.item() == pytest.approx(
        forward_kl_rows(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])).item(), rel=1e-6
    )
    assert draft.grad is not None
    assert draft.grad.isfinite().all()


def buckets(logits: Tensor, num_top: int) -> tuple[Tensor, Tensor]:
    """What crosses the wire: the symbols, and the log-probabilities of those and of the rest."""
    values, support = top_support(logits.log_softmax(-1).numpy(), num_top)
    return torch.from_numpy(support).long(), torch.from_numpy(values)


def test_top_symbols_and_the_rest_by_hand() -> None:
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()
    indices, log_probs = buckets(logits, 2)
    assert indices.tolist() == [[1, 3]]
    assert log_probs.exp()[0].tolist() == pytest.approx([0.5, 0.25, 0.25], rel=1e-6)
    draft = bucket_log_probs(torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log(), indices)
    assert draft.exp()[0].tolist() == pytest.approx([0.3, 0.1, 0.6], rel=1e-6)
    expected = 0.5 * math.log(0.5 / 0.3) + 0.25 * math.log(2.5) + 0.25 * math.log(0.25 / 0.6)
    assert bucket_kl_rows(draft, log_probs).item() == pytest.approx(expected, rel=1e-5)


@given(seed=seeds, num_top=st.integers(1, 7), scale=st.sampled_from([0.1, 1.0, 10.0]))
def test_buckets_never_exceed_the_whole_and_equal_it_at_one_symbol_each(seed: int, num_top: int, scale: float) -> None:
    target, draft = random(6, 8, seed=seed, scale=scale), random(6, 8, seed=seed + 1, scale=scale)
    indices, log_probs = buckets(target, num_top)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(6))  # no mass is lost
    whole = forward_kl_rows(draft, target)
    coarse = bucket_kl_rows(bucket_log_probs(draft, indices), log_probs)
    assert (coarse <= whole + 1e-4).all()
    assert (coarse >= -1e-5).all()
    if num_top == 7:
        torch.testing.assert_close(coarse, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_top", [2, 3])
def test_buckets_without_mass_stay_finite_in_value_and_gradient(num_top: int) -> None:
    indices, log_probs = buckets(torch.tensor([[3e4, 0.0, -3e4, -6e4]]), num_top)
    draft = torch.tensor([[-3e4, 0.0, 3e4, -torch.inf]], requires_grad=True)
    loss = bucket_kl_rows(bucket_log_probs(draft, indices), log_probs).sum()
    loss.backward()
    assert log_probs.min().item() == LOG_FLOOR
    assert loss.isfinite()
    assert draft.grad is not None
    assert draft.grad.isfinite().all()


def test_renormalised_top_symbols_would_select_other_tokens() -> None:
    # Both models agree on the order of the top two; they differ in how much is left for the rest.
    target = torch.tensor([[0.45, 0.45, 0.1], [0.45, 0.45, 0.1]]).log()
    draft = torch.tensor([[0.05, 0.05, 0.9], [0.3, 0.6, 0.1]]).log()
    indices, log_probs = buckets(target, 2)
    honest = bucket_kl_rows(bucket_log_probs(draft, indices), log_probs)
    renormalised = forward_kl_rows(draft.gather(-1, indices), target.gather(-1, indices))
    assert honest.argmax() == 0
    assert renormalised.argmax() == 1


def test_expected_acceptance_by_hand() -> None:
    draft, target = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0, 0]]), torch.tensor([[0.2, 0.3, 0.5], [0.0, 0, 1]])
    assert expected_acceptance(draft.log(), target.log()).tolist() == pytest.approx([0.5, 0.0])


@given(seed=seeds)
def test_expected_acceptance_is_one_minus_total_variation_and_symmetric(seed: int) -> None:
    draft, target = random(5, 6, seed=seed, scale=3.0), random(5, 6, seed=seed + 1, scale=3.0)
    variation = 0.5 * (draft.softmax(-1) - target.softmax(-1)).abs().sum(-1)
    torch.testing.assert_close(expected_acceptance(draft, target), 1 - variation)
    torch.testing.assert_close(expected_acceptance(draft, target), expected_acceptance(target, draft))
    torch.testing.assert_close(expected_acceptance(draft, draft), torch.ones(5))


def test_same_choice() -> None:
    assert same_choice(DRAFT, TARGET).tolist() == [True, True, True, False, True]

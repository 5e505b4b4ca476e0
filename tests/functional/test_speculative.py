import pytest
import torch

from fedkd.functional.speculative import (
    accepted_lengths,
    drawn,
    expected_block_tokens,
    residual_probs,
    sampled_passes,
)


def test_what_follows_a_rejection_does_not_count() -> None:
    passes = torch.tensor(
        [[True, True, False, True], [False, True, True, True], [True] * 4, [True, False, False, True]]
    )
    assert accepted_lengths(passes).tolist() == [2, 0, 4, 1]
    assert accepted_lengths(torch.zeros(0, 4, dtype=torch.bool)).shape == (0,)


def test_a_token_passes_with_probability_p_over_q() -> None:
    q, p = torch.tensor([[[0.5, 0.5], [0.25, 0.75]]]), torch.tensor([[[0.2, 0.8], [0.5, 0.5]]])
    tokens = torch.tensor([[0, 0]])
    assert sampled_passes(tokens, q, p, torch.tensor([[0.39, 0.99]])).tolist() == [[True, True]]  # ratios .4 and 2
    assert sampled_passes(tokens, q, p, torch.tensor([[0.41, 0.99]])).tolist() == [[False, True]]


def test_equal_models_always_pass_and_a_forbidden_token_never() -> None:
    probs = torch.tensor([[[0.3, 0.7]]])
    almost_one = torch.tensor([[1 - 2**-24]])
    assert sampled_passes(torch.tensor([[0]]), probs, probs, almost_one).all()
    assert not sampled_passes(torch.tensor([[0]]), probs, torch.tensor([[[0.0, 1.0]]]), torch.zeros(1, 1)).any()


def test_residual_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.1, 0.8, 0.1]])
    assert residual_probs(p, q)[0].tolist() == pytest.approx([0.8, 0.0, 0.2])


def test_residual_of_no_draft_or_an_equal_one_is_the_target() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2]])
    torch.testing.assert_close(residual_probs(p, torch.zeros(1, 3)), p)
    torch.testing.assert_close(residual_probs(p, p), p)


def test_accepted_and_replaced_together_are_the_target() -> None:
    # P(x) = q(x) min(1, p/q) + P(rejected) residual(x): the law behind losslessness.
    p, q = (torch.randn(20, 9, generator=torch.Generator().manual_seed(seed)).softmax(-1) for seed in (0, 1))
    stands = torch.minimum(p, q)
    rejected = 1 - stands.sum(-1, keepdim=True)
    torch.testing.assert_close(stands + rejected * residual_probs(p, q), p)


def test_draws_invert_the_distribution_function() -> None:
    probs = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).expand(6, 5)
    uniform = torch.tensor([0.0, 0.2499, 0.25, 0.5, 0.9999, 1 - 2**-53], dtype=torch.float64)
    assert drawn(probs, uniform).tolist() == [1, 1, 3, 3, 3, 3]
    assert drawn(3 * probs, uniform).tolist() == [1, 1, 3, 3, 3, 3]


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, 1.0), (1.0, 5.0), (0.5, 1.9375)])
def test_expected_tokens_of_a_block(alpha: float, expected: float) -> None:
    assert expected_block_tokens(alpha, gamma=4) == pytest.approx(expected)
    if alpha < 1:
        assert expected == pytest.approx((1 - alpha**5) / (1 - alpha))

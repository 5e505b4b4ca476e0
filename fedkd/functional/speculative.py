"""Speculative decoding, one block at a time: how much of a proposal stands, and what replaces the rest."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def accepted_lengths(passes: Bool[Tensor, "n g"]) -> Int[Tensor, " n"]:
    """How many proposed tokens stand in each row: those before the first one that does not pass."""
    return passes.long().cumprod(-1).sum(-1)


def sampled_passes(
    proposed: Int[Tensor, "n g"],
    draft: Float[Tensor, "n g c"],
    target: Float[Tensor, "n g c"],
    uniform: Float[Tensor, "n g"],
) -> Bool[Tensor, "n g"]:
    """Pass a token x with probability min(1, p(x) / q(x)): where the uniform draw from [0, 1) lies below p(x) / q(x).

    Args:
        draft: q, the probabilities that `proposed` was drawn from.
        target: p, probabilities at the same positions.

    Paper: Leviathan et al. 2023, algorithm 1; Chen et al. 2023, algorithm 2.
    """
    at = proposed[..., None]
    p, q = target.gather(-1, at)[..., 0], draft.gather(-1, at)[..., 0]
    return uniform * q < p  # without the division: q may have underflowed


def residual_probs(target: Float[Tensor, "n c"], draft: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
    """What replaces a rejected token: max(p - q, 0), normalised; p itself where rounding leaves nothing of it.

    With q = 0 it is p, which is what follows a block that stands whole.
    """
    rest = (target - draft).clamp_min(0.0)
    total = rest.sum(-1, keepdim=True)
    tiny = torch.finfo(rest.dtype).tiny
    return torch.where(total > tiny, rest / total.clamp_min(tiny), target)


def drawn(probs: Float[Tensor, "n c"], uniform: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """One symbol per row by the inverse of its distribution function; symbols without mass are never drawn.

    Args:
        probs: need not be normalised.
        uniform: draws from [0, 1).
    """
    steps = probs.double().cumsum(-1)
    at = torch.searchsorted(steps, (uniform.double() * steps[:, -1])[:, None], right=True)[:, 0]
    return at.clamp_max(probs.shape[-1] - 1)


def expected_block_tokens(alpha: float, *, gamma: int) -> float:
    """Tokens per block of `gamma` proposals if each stood with probability `alpha`.

    (1 - alpha^(gamma + 1)) / (1 - alpha), and gamma + 1 at alpha = 1. Paper: Leviathan et al. 2023, eq. 1.
    """
    return float(sum(alpha**length for length in range(gamma + 1)))

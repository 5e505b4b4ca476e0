"""Speculative decoding: the draft proposes gamma tokens, the target checks them in one pass. Lossless.

Paper: Leviathan et al. 2023; counting as in AdaSPEC (Hu et al. 2025): each proposal that stands is accepted, the first
one that does not is rejected, and those behind it are not counted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.functional.speculative import accepted_lengths, drawn, residual_probs, sampled_passes
from fedkd.models.frozen import frozen
from fedkd.tasks.calls import ask

# Ids (r, t), room for a block included, and lengths (r,) of the prefixes -> tokens (r, gamma + 1): the proposals, and
# at the place after those that stand the target's own; how many stand (r,).
Block: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """Counters of blocks; those of several prompts or clients add up exactly."""

    accepted: int = 0
    rejected: int = 0
    blocks: int = 0

    def __add__(self, other: Acceptance) -> Acceptance:
        return Acceptance(
            accepted=self.accepted + other.accepted,
            rejected=self.rejected + other.rejected,
            blocks=self.blocks + other.blocks,
        )

    @property
    def rate(self) -> float:
        """alpha: the accepted share of the proposals that were checked, 0..1; 0 where none was."""
        return self.accepted / max(self.accepted + self.rejected, 1)

    @property
    def tokens_per_block(self) -> float:
        """Tokens per pass of the target, at most gamma + 1, before the output is cut; 0 where there was no pass."""
        return (self.accepted + self.blocks) / max(self.blocks, 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Decoded:
    """What was written after each prompt, and what it took.

    Attributes:
        tokens: new ids (t,) per prompt, the end symbol included where it came.
        acceptance: counters per prompt.
    """

    tokens: tuple[Tensor, ...]
    acceptance: tuple[Acceptance, ...]

    @property
    def total(self) -> Acceptance:
        """The counters over all prompts."""
        return sum(self.acceptance, start=Acceptance())


def greedy_decode(
    draft: nn.Module,
    target: nn.Module,
    prompts: Iterable[Tensor],
    *,
    max_new_tokens: int,
    gamma: int = 4,
    end: int | None = None,
) -> Decoded:
    """What the target alone would write greedily, and how much of it the draft foresaw.

    All prompts advance together, without a cache of keys and values: rows that differ in length cannot share one.
    Deviation: the authors' evaluation overshoots `max_new_tokens` by up to gamma tokens and stops at an end symbol of
    the prompt; here neither. Counted as there: whole blocks, also behind an end symbol or the limit.

    Args:
        prompts: ids (t,), t >= 1, of any lengths. The models must bear len(prompt) + max_new_tokens + gamma - 1
            positions.
        gamma: proposals per block; >= 1.
        end: symbol after which a text ends; None: only the limit ends it.

    Raises:
        ValueError: an empty prompt, or `gamma` below 1.
    """
    block = functools.partial(_greedy_block, draft, target, gamma)
    with torch.no_grad(), frozen(draft, target):
        return _decode(block, list(prompts), max_new_tokens=max_new_tokens, gamma=gamma, end=end)


def sampled_decode(
    draft: nn.Module,
    target: nn.Module,
    prompts: Iterable[Tensor],
    *,
    max_new_tokens: int,
    rng: np.random.Generator,
    gamma: int = 4,
    temperature: float = 1.0,
    end: int | None = None,
) -> Decoded:
    """Text distributed as if the target alone had been sampled at `temperature`, and the acceptance.

    Arguments and errors are those of `greedy_decode`, and a `temperature` that is not above 0 is refused.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}, expected more than 0; `greedy_decode` is its limit at 0")
    block = functools.partial(_sampled_block, draft, target, gamma, temperature, rng)
    with torch.no_grad(), frozen(draft, target):
        return _decode(block, list(prompts), max_new_tokens=max_new_tokens, gamma=gamma, end=end)


def _decode(block: Block, prompts: Sequence[Tensor], *, max_new_tokens: int, gamma: int, end: int | None) -> Decoded:
    if gamma < 1 or any(not len(prompt) for prompt in prompts):
        raise ValueError(f"gamma is {gamma}, prompts have {[len(p) for p in prompts]} tokens; each must be at least 1")
    written: list[list[int]] = [[] for _ in prompts]
    counts = [Acceptance() for _ in prompts]
    texts = [prompt.tolist() for prompt in prompts]
    going = [number for number in range(len(prompts)) if max_new_tokens > 0]
    while going:
        prefixes = [texts[number] + written[number] for number in going]
        lengths = torch.tensor([len(prefix) for prefix in prefixes])
        ids = torch.zeros(len(going), int(lengths.max()) + gamma, dtype=torch.long)
        for row, prefix in zip(ids, prefixes, strict=True):
            row[: len(prefix)] = torch.tensor(prefix)
        device = prompts[0].device
        tokens, stand = block(ids.to(device), lengths.to(device))
        for number, row, accepted in zip(going, tokens.tolist(), stand.tolist(), strict=True):
            written[number] += row[: accepted + 1]
            counts[number] += Acceptance(accepted=accepted, rejected=int(accepted < gamma), blocks=1)
        going = [n for n in going if len(written[n]) < max_new_tokens and (end is None or end not in written[n])]
    ended = tuple(torch.tensor(_cut(new, max_new_tokens, end), dtype=torch.long) for new in written)
    return Decoded(tokens=ended, acceptance=tuple(counts))


def _cut(tokens: list[int], limit: int, end: int | None) -> list[int]:
    stop = tokens.index(end) + 1 if end is not None and end in tokens else len(tokens)
    return tokens[: min(stop, limit)]


def _greedy_block(
    draft: nn.Module, target: nn.Module, gamma: int, ids: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    rows = torch.arange(len(ids), device=ids.device)
    for step in range(gamma):
        ids[rows, lengths + step] = _next_logits(draft, ids, lengths + step).argmax(-1)
    places = _places(lengths, gamma)
    own = ask(target, ids)[rows[:, None], places].argmax(-1)
    proposed = ids[rows[:, None], places[:, 1:]]
    return own, accepted_lengths(proposed == own[:, :-1])  # where proposals stand, they are the target's own


def _sampled_block(
    draft: nn.Module,
    target: nn.Module,
    gamma: int,
    temperature: float,
    rng: np.random.Generator,
    ids: Tensor,
    lengths: Tensor,
) -> tuple[Tensor, Tensor]:
    rows = torch.arange(len(ids), device=ids.device)

    def uniform(*shape: int) -> Tensor:
        return torch.from_numpy(rng.random(shape)).to(ids.device)

    proposals = []
    for step in range(gamma):
        probs = (_next_logits(draft, ids, lengths + step).float() / temperature).softmax(-1)
        ids[rows, lengths + step] = drawn(probs, uniform(len(ids)))
        proposals.append(probs)
    # No mass at the place after the block: what replaces a proposal there is then drawn from the target itself.
    q = torch.stack([*proposals, torch.zeros_like(proposals[0])], dim=1)
    places = _places(lengths, gamma)
    p = (ask(target, ids)[rows[:, None], places].float() / temperature).softmax(-1)
    tokens = ids[rows[:, None], places[:, 1:]]
    stand = accepted_lengths(sampled_passes(tokens, q[:, :-1], p[:, :-1], uniform(*tokens.shape)))
    tokens = torch.cat([tokens, tokens.new_zeros(len(tokens), 1)], dim=1)
    tokens[rows, stand] = drawn(residual_probs(p[rows, stand], q[rows, stand]), uniform(len(ids)))
    return tokens, stand


def _next_logits(model: nn.Module, ids: Tensor, lengths: Tensor) -> Tensor:
    """Logits (r, c) for the token after the first `lengths` of each row; what stands behind them is not seen."""
    seen = ids[:, : int(lengths.max())]
    return ask(model, seen)[torch.arange(len(ids), device=ids.device), lengths - 1]


def _places(lengths: Tensor, gamma: int) -> Tensor:
    """Positions (r, gamma + 1) whose logits predict the proposals and the token after them."""
    return lengths[:, None] - 1 + torch.arange(gamma + 1, device=lengths.device)

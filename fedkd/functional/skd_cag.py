"""SKD-CAG on tensors: attention maps, losses, the weight average's schedule, and the statistic that finds a backdoor.

Paper: Sealing the Backdoor (arXiv 2508.18235); the authors' code is Mystic-Slice/Sealing-The-Backdoor. A *word token*
is a token of the prompt other than the start token, before the first end token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from fedkd.functional.losses import masked_mean, mse_rows
from fedkd.types import Array


def summed_maps(layers: Sequence[Float[Tensor, "heads n h w"]], *, resolution: int = 0) -> Float[Tensor, "n r s"]:
    """One map per token: the mean over heads of each layer, enlarged bilinearly to one size, summed over the layers.

    The size (r, s) is `resolution` or the largest layer's side, whichever is larger, for height and width apart: maps
    are enlarged and never reduced, and 0 keeps the native size of the largest layer. Half precision is computed in
    float32. Tokens are independent of each other, so n may be the tokens of several prompts.
    Source: authors' `get_attn_maps`. Deviation: layers larger than R may come in any order; there, the first must be
    the largest.

    Raises:
        ValueError: no layers.
    """
    if not layers:
        raise ValueError("no cross-attention layers; at least one is needed")
    size = tuple(max(resolution, *(layer.shape[axis] for layer in layers)) for axis in (-2, -1))
    enlarged = [_enlarged(layer, size) for layer in layers]
    return torch.stack(enlarged).sum(0)


def min_max(maps: Float[Tensor, "n h w"], *, eps: float = 1e-8) -> Float[Tensor, "n h w"]:
    """Each map scaled to minimum 0 and maximum 1; a map whose range is at most `eps` becomes 0 up to that range.

    Source: authors' `get_attn_maps`. Deviation: a constant map gives zeros with bounded gradients, there NaN.
    """
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    span = high - low
    return (maps - low) / torch.where(span > eps, span, torch.ones_like(span))


def word_positions(ids: Sequence[int], *, start: int, end: int) -> list[int]:
    """Positions of the word tokens: start tokens are skipped, and the first end token stops."""
    stop = next((position for position, token in enumerate(ids) if token == end), len(ids))
    return [position for position in range(stop) if ids[position] != start]


def attention_loss(
    student: Float[Tensor, "s h w"],
    teacher: Float[Tensor, "t h w"],
    target: Float[Tensor, "k h w"],
    *,
    num_trigger: int,
) -> Float[Tensor, ""]:
    """L_attn of one prompt: trigger tokens towards `target`, the other word tokens towards the teacher's.

    (sum_i MSE(m_S[i], target_i) + sum_j MSE(m_T[j], m_S[num_trigger + j])) / n', n' = num_trigger + the student's other
    word tokens. Sums run as far as both sides have maps, so a tail lost to truncation costs nothing, yet n' counts
    every token of the student. Source: authors' `attention_map_loss`. Deviation: none.

    Args:
        student: maps of the word tokens of the triggered prompt, the trigger's first.
        teacher: maps of the word tokens of the clean prompt, without any words put in front.
        target: maps for the trigger tokens: see `trigger_target`. Trigger tokens beyond the k-th are free.
        num_trigger: tokens of the trigger.
    """
    trigger, others = student[:num_trigger], student[num_trigger:]
    pairs = ((trigger, target), (others, teacher))
    total = torch.stack([_summed_mse(ours, theirs) for ours, theirs in pairs]).sum()
    return total / max(num_trigger + len(others), 1)


def trigger_target(
    kind: str,
    *,
    num_trigger: int,
    noise: Float[Tensor, "h w"],
    random_words: Float[Tensor, "k h w"],
) -> Float[Tensor, "k h w"]:
    """Targets for the trigger tokens: `noise` (one map for all of them), `black` (zeros) or `random_words`.

    Args:
        noise: uniform in [0, 1], drawn anew in each step. Every trigger token gets the same map, as in the source.
        random_words: the teacher's maps of the random words that stand in the trigger's place.
    """
    if kind == "random_words":
        return random_words
    single = noise if kind == "noise" else torch.zeros_like(noise)
    return single.expand(num_trigger, *noise.shape)


def prediction_loss(student: Float[Tensor, " n *d"], teacher: Float[Tensor, " n *d"]) -> Float[Tensor, ""]:
    """L_pred: mean over all elements of (student - teacher)^2, in float32 at least; 0 where there are none.

    Also the keep term (both on the clean prompt) and the federated term (against the aggregated noise predictions).
    """
    dtype = torch.promote_types(student.dtype, torch.float32)
    squares = (student.to(dtype) - teacher.to(dtype)).square().flatten()
    return masked_mean(squares, torch.ones_like(squares, dtype=torch.bool))


def timestep_weight(timesteps: Int[Tensor, " n"], *, num_timesteps: int) -> Float[Tensor, " n"]:
    """num_timesteps / t, by which L_attn is multiplied.

    Source: noise variant of the authors' code. Deviation: t = 0 counts as 1; there it divides by zero.
    """
    return num_timesteps / timesteps.clamp_min(1).to(torch.get_default_dtype())


def total_loss(
    attention: Float[Tensor, ""],
    prediction: Float[Tensor, ""],
    *,
    attention_weight: float,
    keep: Float[Tensor, ""] | None = None,
    keep_weight: float = 0.0,
) -> Float[Tensor, ""]:
    """lambda L_attn + (1 - lambda) L_pred, plus keep_weight times the clean-prompt loss where it is given.

    Deviation: the keep term; the source has none, and its clean fidelity rests on a small learning rate.
    """
    loss = attention_weight * attention + (1.0 - attention_weight) * prediction
    return loss if keep is None else loss + keep_weight * keep


def ema_retention(step: int, *, decay: float = 0.9999, compat: str = "paper") -> float:
    """Share of the running average that update `step` (from 1) leaves in it; the new weights get the rest.

    `paper`: min(decay, (1 + step) / (10 + step)). `released`: the authors' class overwrites its own decay with the
    share of the new weights (0.8182, 0.75, 0.6923, ...), so from step 8 on it retains a half and no more.
    """
    warm = (1 + step) / (10 + step)
    if compat == "released":
        return min(decay, warm) if step == 1 else min(warm, 0.5)
    return min(decay, warm)


def trigger_shift(clean: Float[Array, "p d"], triggered: Float[Array, "p d"]) -> float:
    """Mean over proxy tuples of ||eps(x, t, c') - eps(x, t, c)||, how far the trigger moves a client; 0 without any."""
    if not len(clean):
        return 0.0
    difference = triggered.astype(np.float64) - clean.astype(np.float64)
    return float(np.linalg.norm(difference.reshape(len(clean), -1), axis=1).mean())


def detection_statistic(shifts: Float[Array, " m"], *, eps: float = 1e-12) -> Float[Array, " m"]:
    """Each client's `trigger_shift` over the median of all; a poisoned client of a clean majority stands far above 1.

    A median below `eps` counts as `eps`: where most do not move at all, whoever moves has a huge, finite value.
    """
    if not len(shifts):
        return np.zeros(0)
    ratio: Array = np.asarray(shifts, np.float64) / max(float(np.median(shifts)), eps)
    return ratio


def _summed_mse(ours: Float[Tensor, "a h w"], theirs: Float[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """Sum over the pairs that exist of the mean squared difference of two maps."""
    count = min(len(ours), len(theirs))
    return mse_rows(ours[:count].flatten(1), theirs[:count].flatten(1)).sum()


def _enlarged(layer: Float[Tensor, "heads n h w"], size: tuple[int, ...]) -> Float[Tensor, "n r s"]:
    """The mean over heads at the given size."""
    means = layer.to(torch.promote_types(layer.dtype, torch.float32)).mean(0)
    if not len(means):  # interpolate takes tokens for channels and refuses to have none
        return means[:, :1, :1].expand(-1, *size)
    return functional.interpolate(means[None], size=size, mode="bilinear", align_corners=False)[0]

"""MST-Distill's losses: mutual distillation of three networks, masked teachers, and a gate that picks some of them.

Paper: Li et al. 2025 (MST-Distill, ACM MM). Letters: `e` teachers; `*at` further axes of dense outputs, such as height,
over which a sample's divergence is averaged. KL4(s, t) = 16 KL(softmax(t / 4) || softmax(s / 4)).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedkd.functional.losses import kl_rows, row_mean, target_cross_entropy, wide


def softened_kl_rows(
    student: Float[Tensor, "n c *at"], teacher: Float[Tensor, "n c *at"], *, temperature: float
) -> Float[Tensor, " n"]:
    """KL(teacher || student) of the softened logits per sample in nats, times the temperature's square.

    The gradient reaches both arguments, also where a probability underflows to 0. Half precision is computed, and
    comes back, as float32.
    """
    at = kl_rows(student, teacher, temperature=temperature, dim=1)
    size = math.prod(at.shape[1:])
    return at.reshape(len(at), size).sum(1) / max(1, size)


def softened_kl(
    student: Float[Tensor, "n c *at"], teacher: Float[Tensor, "n c *at"], *, temperature: float
) -> Float[Tensor, ""]:
    """Mean of `softened_kl_rows` over samples: KL4(student, teacher) at temperature 4."""
    return row_mean(softened_kl_rows(student, teacher, temperature=temperature))


def mutual_kl(logits: Sequence[Float[Tensor, "n c *at"]], *, temperature: float) -> Float[Tensor, ""]:
    """Sum of KL4(m, n) over all ordered pairs of networks; no target is detached, so each pulls the other two."""
    pairs = itertools.permutations(logits, 2)
    return torch.stack([softened_kl(left, right, temperature=temperature) for left, right in pairs]).sum()


def cotraining_loss(
    logits: Sequence[Float[Tensor, "n c *at"]], labels: Int[Tensor, " n *at"], *, temperature: float
) -> Float[Tensor, ""]:
    """Stage 1: the sum of all networks' cross-entropies and of their mutual divergences. `logits`: of T, A and S."""
    tasks = torch.stack([target_cross_entropy(of_one, labels) for of_one in logits]).sum()
    return tasks + mutual_kl(logits, temperature=temperature)


def mask_loss(
    teacher: Float[Tensor, "n c *at"], student: Float[Tensor, "n c *at"], *, temperature: float
) -> Float[Tensor, ""]:
    """Stage 2: KL4(teacher, stop(student)): the mask pulls its teacher's output towards the student's."""
    return softened_kl(teacher, student.detach(), temperature=temperature)


def gate_probs(gate_logits: Float[Tensor, "n e"]) -> Float[Tensor, "n e"]:
    """q: how likely the gate finds each teacher for each sample."""
    return wide(gate_logits).softmax(dim=1)


def top_picks(probs: Float[Tensor, "n e"], *, k: int) -> Int[Tensor, "n k"]:
    """The `k` likeliest teachers per sample, likeliest first; all of them where there are fewer. Ties as torch's topk.

    Raises:
        ValueError: k < 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected at least one teacher per sample")
    return torch.topk(probs, k=min(k, probs.shape[1]), dim=1).indices


def routed_loss(
    student: Float[Tensor, "n c *at"],
    teachers: Float[Tensor, "e n c *at"],
    probs: Float[Tensor, "n e"],
    *,
    k: int,
    gate_grad: str = "none",
    temperature: float,
) -> tuple[Float[Tensor, ""], Int[Tensor, "n k"]]:
    """L_kd, the divergence to the `k` teachers that each sample picks, and the picks. Teachers are detached.

    `none`, as the authors' code: the plain mean over picks; nothing here reaches the gate.
    `weighted`: the sum of w_r times the divergence to pick r, w_r = q_r / sum of the picked q, with the gradient of w.
    Equal q give the plain mean. Deviation: with k = 1, w is the constant 1 and the gate would learn nothing; there the
    gate (alone: neither the value nor the student's gradient changes) learns from the pick and the runner-up as if k
    were 2.
    """
    picks = top_picks(probs, k=k)
    if gate_grad == "none":
        return row_mean(_divergence_to(picks, student, teachers, temperature).mean(1)), picks
    if picks.shape[1] > 1:
        divergence = _divergence_to(picks, student, teachers, temperature)
        return row_mean((divergence * _renormalised(probs, picks)).sum(1)), picks
    pair = top_picks(probs, k=2)
    divergence = _divergence_to(pair, student, teachers, temperature)
    compared = (divergence.detach() * _renormalised(probs, pair)).sum(1)
    return row_mean(divergence[:, 0] + compared - compared.detach()), pair[:, :1]


def mixture_loss(
    student: Float[Tensor, "n c *at"],
    teachers: Float[Tensor, "e n c *at"],
    probs: Float[Tensor, "n e"],
    *,
    gate_grad: str = "none",
    temperature: float,
) -> Float[Tensor, ""]:
    """KL4(student, sum_j q_j t_j): the soft variant, one target mixed from all teachers' logits.

    `none` detaches the mixture, as the authors' code; `weighted` lets the gate learn from it. Teachers are detached.
    """
    weights = probs if gate_grad == "weighted" else probs.detach()
    mixture = torch.einsum("ne,en...->n...", weights, teachers.detach().to(weights.dtype))
    return softened_kl(student, mixture, temperature=temperature)


def load_balance_kl(probs: Float[Tensor, "n e"]) -> Float[Tensor, ""]:
    """KL(uniform || mean q) / e in nats; 0 where all teachers get the same share, and without samples.

    The division by e is the authors' reduction: it scales the weight w_lb and is kept.
    """
    if not len(probs):
        return probs.sum()
    share = wide(probs).mean(0)
    share = share.clamp_min(torch.finfo(share.dtype).tiny)  # a share that underflows costs much, not infinity
    uniform = 1.0 / len(share)
    return (uniform * (math.log(uniform) - share.log())).mean()


def load_balance_cv(probs: Float[Tensor, "n e"]) -> Float[Tensor, ""]:
    """Coefficient of variation of the summed q: standard deviation (unbiased) over mean; 0 for a single teacher."""
    if not len(probs) or probs.shape[1] == 1:
        return 0.0 * probs.sum()
    importance = wide(probs).sum(0)
    return importance.std() / importance.mean()


LOAD_BALANCE: Mapping[str, Callable[[Tensor], Tensor]] = {"kl": load_balance_kl, "cv": load_balance_cv}


def decayed(weight: float, *, epoch: int, factor: float, every: int) -> float:
    """The weight in force in `epoch` (from 0): multiplied by `factor` after epochs 0, every, 2 every, ...

    So the first decay follows the very first epoch, as in the authors' code. With `every` = 0 there is none: the weight
    stays as it is for the whole run.
    """
    return weight * factor ** math.ceil(epoch / every) if every else weight


def routing_frequency(picks: Int[Tensor, "n k"], *, num_teachers: int) -> Float[Tensor, " e"]:
    """The share of all picks that went to each teacher; zeros without picks."""
    counts = torch.bincount(picks.flatten(), minlength=num_teachers).float()
    return counts / counts.sum().clamp_min(1)


def _divergence_to(picks: Tensor, student: Tensor, teachers: Tensor, temperature: float) -> Float[Tensor, "n k"]:
    sample = torch.arange(len(picks), device=picks.device)
    ranks = teachers.detach()[picks.T, sample]  # (k, n, c, *at)
    return torch.stack([softened_kl_rows(student, rank, temperature=temperature) for rank in ranks], dim=1)


def _renormalised(probs: Tensor, picks: Tensor) -> Float[Tensor, "n k"]:
    picked = probs.gather(1, picks)
    return picked / picked.sum(1, keepdim=True)

"""How differently the clients' labels are mixed. Clients without a sample have no mix and are left out."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.special import entr

from fedkd.types import Array

_BLOCK_VALUES = 1 << 20  # float64 values that a block of client pairs may fill: 8 MiB


def class_mix(counts: Int[Array, "m c"]) -> Float[Array, "n c"]:
    """Shares of the classes, rows adding up to 1, of the n <= m clients that hold samples."""
    held = counts[counts.sum(axis=1) > 0].astype(np.float64)
    mix: Array = held / held.sum(axis=1, keepdims=True)
    return mix


def mean_pairwise_js(counts: Int[Array, "m c"]) -> float:
    """Mean Jensen-Shannon divergence (base 2, 0..1) of the class mixes over all pairs of clients; 0 without a pair.

    JS(p, q) = H((p + q) / 2) - (H(p) + H(q)) / 2. It is the divergence, not its square root (the distance).
    0: every client has the same mix. 1: no two clients share a class.
    """
    mix = class_mix(counts)
    num_clients, num_classes = mix.shape
    if num_clients < 2:
        return 0.0
    entropy = entr(mix).sum(axis=1)
    total = 0.0
    block = max(1, _BLOCK_VALUES // (num_clients * num_classes))
    for start in range(0, num_clients, block):
        first = mix[start : start + block, None]
        middle = entr((first + mix[None, start:]) / 2).sum(axis=2)
        divergence = middle - (entropy[start : start + block, None] + entropy[None, start:]) / 2
        total += float(np.triu(divergence, k=1).sum())  # column 0 is client `start`: above the diagonal, each pair once
    mean = total / np.log(2) / (num_clients * (num_clients - 1) / 2)
    return float(np.clip(mean, 0.0, 1.0))  # rounding may leave -1e-17


def mean_label_emd(counts: Int[Array, "m c"]) -> float:
    """Mean over clients of sum_k |p_client(k) - p_global(k)|, 0..2; 0 without a sample.

    This is the label earth mover's distance of Zhao et al. 2018 (FL with non-IID data): any two classes lie equally
    far apart, so it is the L1 distance, twice the total variation. p_global is the mix of all samples together.
    Deviation: clients count equally, whatever the number of their samples.
    """
    mix = class_mix(counts)
    if not len(mix):
        return 0.0
    everyone = counts.sum(axis=0) / counts.sum()
    return float(np.abs(mix - everyone).sum(axis=1).mean())

"""Token sequences, and what a target says about them: live, or stored as its most likely symbols and the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from fedkd.functional.adaspec import (
    bucket_kl_rows,
    bucket_log_probs,
    forward_kl_rows,
    label_mask,
    label_rows,
)
from fedkd.methods.adaspec.causal import token_logits
from fedkd.models.frozen import frozen

KlRows: TypeAlias = Callable[[Tensor], Tensor]  # a model's logits (n, c) on label tokens -> divergences (n,) in nats
Teacher: TypeAlias = Callable[[Tensor, Tensor, Tensor], KlRows]  # positions (b,) in the corpus, ids and labels there


@dataclass(frozen=True, eq=False, kw_only=True)
class Corpus:
    """Sequences with their teacher.

    Attributes:
        ids: (n, t), padded on the right.
        labels: (n, t), -100 on prompt and padding; also on tokens about which the teacher says nothing.
        teacher: gives the divergence from the target on a batch.
    """

    ids: Tensor
    labels: Tensor
    teacher: Teacher

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenBatch:
    """A batch of one corpus: ids (b, t), labels (b, t), and the divergence of a model's label rows from the target."""

    ids: Tensor
    labels: Tensor
    kl_rows: KlRows

    def divergence(self, model: nn.Module) -> Tensor:
        """KL(target || model) of each label token, (n,)."""
        return self.kl_rows(label_rows(token_logits(model, self.ids), self.labels))


def live_teacher(target: nn.Module) -> Teacher:
    """The target itself, asked for each batch without gradients."""

    def teacher(at: Tensor, ids: Tensor, labels: Tensor) -> KlRows:  # noqa: ARG001 - the live target needs no place
        with torch.no_grad(), frozen(target):
            rows = label_rows(token_logits(target, ids), labels)
        return lambda model_rows: forward_kl_rows(model_rows, rows)

    return teacher


def bucket_teacher(indices: Tensor, log_probs: Tensor) -> Teacher:
    """A stored target: at each of the t - 1 predicting positions its top symbols, and the mass of all others.

    Args:
        indices: (n, t - 1, k) symbols.
        log_probs: (n, t - 1, k + 1) as from `top_buckets`.
    """

    def teacher(at: Tensor, ids: Tensor, labels: Tensor) -> KlRows:
        keep = label_mask(labels)
        symbols = indices[at].to(ids.device)[keep]
        stored = log_probs[at].to(ids.device)[keep].float()
        return lambda model_rows: bucket_kl_rows(bucket_log_probs(model_rows, symbols), stored)

    return teacher


def token_batches(corpora: Sequence[Corpus], positions: Tensor, *, device: torch.device) -> list[TokenBatch]:
    """The sequences at `positions` (b,) of the corpora laid end to end; one batch per corpus that has any."""
    found = []
    start = 0
    for corpus in corpora:
        at = positions[(positions >= start) & (positions < start + len(corpus))] - start
        start += len(corpus)
        if len(at):
            ids, labels = corpus.ids[at].to(device), corpus.labels[at].to(device)
            found.append(TokenBatch(ids=ids, labels=labels, kl_rows=corpus.teacher(at, ids, labels)))
    return found


def token_sequences(batches: Sequence[TokenBatch]) -> Tensor:
    """The number of each label token's sequence, (n,), counted over all batches in their order."""
    counts = torch.cat([label_mask(batch.labels).sum(1) for batch in batches])
    return torch.repeat_interleave(counts)

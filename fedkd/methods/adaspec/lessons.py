"""Batches of tokens together with what a target says there: the client's own, or the aggregate of all clients'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedkd.data.base import Samples
from fedkd.errors import ConfigError
from fedkd.functional.adaspec import bucket_kl_rows, forward_kl_rows, label_mask
from fedkd.functional.losses import bucket_log_probs
from fedkd.methods.taught import Taught
from fedkd.models.frozen import frozen
from fedkd.tasks.base import Task
from fedkd.tasks.batches import TokenBatch
from fedkd.types import Ids

KlRows: TypeAlias = Callable[[Tensor], Tensor]  # logits (n, c) of a model on label tokens -> divergences (n,) in nats


@dataclass(frozen=True, eq=False, kw_only=True)
class Lesson:
    """A batch of sequences and how far a model is from the target on its label tokens.

    Attributes:
        at: where in the batch the n tokens stand: sequences (n,) and positions (n,), sequence after sequence.
        kl_rows: KL(target || model) of logits at these places.
    """

    task: Task[Any]
    batch: TokenBatch
    at: tuple[Tensor, Tensor]
    kl_rows: KlRows

    def divergence(self, model: nn.Module) -> Tensor:
        """KL(target || model) of each label token, (n,)."""
        return self.kl_rows(self.task.logits(model, self.batch)[self.at])


Lessons: TypeAlias = Callable[[Ids], Lesson]  # positions (b,) of sequences -> the lesson on them


def lessons_of(task: Task[Any], samples: Samples, target: nn.Module, *, device: str) -> Lessons:
    """Lessons on the label tokens of `samples`, by a target that is asked for each batch, without gradients."""

    def lesson(index: Ids) -> Lesson:
        batch = task.batch(samples, index, device)
        sequence, position = label_mask(batch.labels).nonzero(as_tuple=True)
        with torch.no_grad(), frozen(target):
            rows = task.logits(target, batch)[sequence, position]

        def kl_rows(model_rows: Tensor) -> Tensor:
            if model_rows.shape != rows.shape:
                raise ConfigError(
                    f"the draft has a vocabulary of {model_rows.shape[-1]} tokens and the target one of "
                    f"{rows.shape[-1]} (mismatched vocabularies); both must have the tokens of the data"
                )
            return forward_kl_rows(model_rows, rows)

        return Lesson(task=task, batch=batch, at=(sequence, position), kl_rows=kl_rows)

    return lesson


def lessons_heard(task: Task[Any], samples: Samples, taught: Taught, *, device: str) -> Lessons:
    """Lessons on proxy tokens by log-probabilities that crossed the wire; positions count `taught`'s samples."""

    def lesson(index: Ids) -> Lesson:
        known = taught.batch(index)
        place = torch.from_numpy(np.stack([known.sample, known.position])).to(device)
        said = torch.from_numpy(known.values).to(device)
        support = None if known.support is None else torch.from_numpy(known.support).long().to(device)

        def kl_rows(model_rows: Tensor) -> Tensor:
            logits = model_rows.float()
            own = functional.log_softmax(logits, dim=-1) if support is None else bucket_log_probs(logits, support)
            return bucket_kl_rows(own, said)

        batch = task.batch(samples, known.sample_ids, device)
        return Lesson(task=task, batch=batch, at=(place[0], place[1]), kl_rows=kl_rows)

    return lesson

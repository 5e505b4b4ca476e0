"""Language: one row of logits per token, about the token that follows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np
from scipy.special import log_softmax

from fedkd.checks import check_range
from fedkd.data.base import IGNORE, Dataset, Samples
from fedkd.errors import ConfigError, DataError
from fedkd.rows import Rows
from fedkd.tasks.base import Evaluation, Tally, Task
from fedkd.tasks.batches import TokenBatch, tensor_of
from fedkd.tasks.calls import ask
from fedkd.tasks.tokens import token_shares
from fedkd.types import Array, Ids, Mask, Metrics

if TYPE_CHECKING:
    from torch import Tensor, nn

RESPONSE = "response"  # the name of the mask of response tokens among Samples.more
_LARGEST_EXPONENT = 700.0  # exp of more is infinite


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """What of a sequence counts."""

    pad: int = -1  # the token that fills short sequences up, at their end; -1: there is none

    def __post_init__(self) -> None:
        check_range("pad", self.pad, low=-1)


@final
@dataclass(frozen=True)
class Language(Task[TokenBatch]):
    """Sequences of `length` tokens over `num_outputs` words; the metric is the loss in nats per token, lower is better.

    Row t of a sequence is about token t + 1. Its target is Samples.y[:, t] where there is a y; otherwise token t + 1
    itself, if it is no padding and, where Samples.more["response"] (n, length) says what the response is, part of that.
    The last row has then no target. Rows without a target (IGNORE) are never asked, taught or counted.
    """

    num_outputs: int
    length: int
    pad: int = -1
    Config: ClassVar[type] = LanguageConfig
    name: ClassVar[str] = "language"
    metric: ClassVar[str] = "loss"
    metric_higher_is_better: ClassVar[bool] = False

    @classmethod
    def of(cls, config: LanguageConfig, dataset: Dataset) -> Language:
        """Over the data set's vocabulary (its classes); DataError where its inputs are no sequences of tokens."""
        shape, kind = dataset.input_shape, dataset.train.x.dtype
        if len(shape) != 1 or kind.kind not in "iu":
            raise DataError(
                f"data set {dataset.name!r} has {kind} inputs of shape {shape}, but language needs whole numbers "
                "(length,); choose another task or data set"
            )
        return cls(num_outputs=dataset.num_classes, length=shape[0], pad=config.pad)

    @property
    def rows_per_sample(self) -> int:
        """Tokens of a sequence."""
        return self.length

    def targets(self, samples: Samples) -> Array:
        """The word (n, length) that each row is about, IGNORE where it does not count."""
        if samples.y is not None:
            return samples.y
        keep = self._is_token(samples.x)
        if RESPONSE in samples.more:
            keep = keep & samples.more[RESPONSE].astype(bool)
        targets = np.full(samples.x.shape, IGNORE, np.int64)
        targets[:, :-1] = np.where(keep[:, 1:], samples.x[:, 1:], IGNORE)
        return targets

    def filter_inputs(self, samples: Samples) -> Samples:
        """How often each word stands in a sequence, as a share of its tokens."""
        counts = token_shares(samples.x, self._is_token(samples.x), num_words=self.num_outputs)
        return replace(samples, x=counts)

    def batch(self, samples: Samples, index: Ids, device: str) -> TokenBatch:
        """Tokens, the word after each, and where there are tokens at all."""
        part = samples.take(index)
        every = np.arange(len(part))
        attention = None if self.pad < 0 else tensor_of(self._is_token(part.x), every, device)
        return TokenBatch(
            tokens=tensor_of(part.x, every, device),
            labels=tensor_of(self.targets(part), every, device),
            attention=attention,
        )

    def answer(self, model: nn.Module, batch: TokenBatch) -> Tensor:
        """Logits (b, length, c). A model whose `forward` names `attention_mask` gets it as ones and zeros."""
        mask = None if batch.attention is None else batch.attention.long()
        found = ask(model, batch.tokens, attention_mask=mask)
        if found.ndim != 3 or found.shape[1] != batch.tokens.shape[1]:
            raise ConfigError(
                f"model {type(model).__name__} answers tokens {tuple(batch.tokens.shape)} with shape "
                f"{tuple(found.shape)}, expected logits (b, length, words); choose a language model",
                key="model.name",
            )
        return found

    def rows(self, answer: Tensor) -> Tensor:
        """As they are: (b, length, c)."""
        return answer

    def loss_of(self, answer: Tensor, batch: TokenBatch) -> Tensor:
        """Cross-entropy, mean over the tokens that count."""
        from fedkd.functional.losses import target_cross_entropy

        return target_cross_entropy(answer.flatten(0, 1), batch.labels.flatten())

    def valid(self, samples: Samples) -> Mask | None:
        """The rows that have a target."""
        mask: Mask = self.targets(samples) != IGNORE
        return mask

    def tally(self, rows: Rows, samples: Samples) -> Tally:
        """Sum of the losses, number of targets, and how many of them were the likeliest word."""
        targets = self.targets(samples).reshape(-1)[rows.ids]
        keep = targets != IGNORE
        values, targets = rows.values[keep], targets[keep]
        likely = values
        if rows.kind == "logits":
            likely = log_softmax(values, axis=1)
        elif rows.kind == "probs":
            likely = np.log(np.maximum(values, np.finfo(np.float32).tiny))
        return {
            "loss": -likely[np.arange(len(targets)), targets].sum(dtype=np.float64, keepdims=True),
            "targets": np.array([len(targets)]),
            "hits": (values.argmax(axis=1) == targets).sum(keepdims=True),
        }

    def finish(self, tally: Tally, *, seen: Ids | None = None) -> Evaluation:  # noqa: ARG002 - words are no classes
        """Loss in nats per token, perplexity (its exponential) and token accuracy."""
        count = max(int(tally["targets"][0]), 1)
        loss = float(tally["loss"][0]) / count
        metrics: Metrics = {"loss": loss, "token_acc": float(tally["hits"][0]) / count}
        if loss < _LARGEST_EXPONENT:
            metrics["perplexity"] = math.exp(loss)
        return Evaluation(score=loss, metrics=metrics)

    def _is_token(self, x: Array) -> Mask:
        mask: Mask = x != self.pad  # no token is negative
        return mask

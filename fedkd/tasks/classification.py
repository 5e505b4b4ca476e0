"""Classification: one row of logits per sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from fedkd.data.base import Dataset, Samples
from fedkd.rows import Rows
from fedkd.tasks.base import Evaluation, Tally, Task
from fedkd.tasks.batches import ImageBatch, needed, tensor_of
from fedkd.tasks.calls import ask
from fedkd.tasks.class_figures import accuracy_figures, class_tally
from fedkd.types import Ids, Mask

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig:
    """No options: classes and shapes are the data set's."""


@final
@dataclass(frozen=True)
class Classification(Task[ImageBatch]):
    """Samples of `num_outputs` classes, images or tokens; the metric is accuracy over all samples, 0..1."""

    num_outputs: int
    Config: ClassVar[type] = ClassificationConfig
    name: ClassVar[str] = "classification"
    metric: ClassVar[str] = "acc"

    @classmethod
    def of(cls, config: ClassificationConfig, dataset: Dataset) -> Classification:  # noqa: ARG003 - the contract's arguments
        """Over the data set's classes."""
        return cls(num_outputs=dataset.num_classes)

    @property
    def table_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The confusion matrix."""
        return {"confusion": (self.num_outputs, self.num_outputs)}

    def batch(self, samples: Samples, index: Ids, device: str) -> ImageBatch:
        """Inputs and class numbers."""
        y = None if samples.y is None else tensor_of(samples.y, index, device)
        return ImageBatch(tensor_of(samples.x, index, device), y)

    def answer(self, model: nn.Module, batch: ImageBatch) -> Tensor:
        """Logits (b, c)."""
        return ask(model, batch.x)

    def rows(self, answer: Tensor) -> Tensor:
        """(b, 1, c)."""
        return answer[:, None]

    def loss_of(self, answer: Tensor, batch: ImageBatch) -> Tensor:
        """Cross-entropy, mean over the samples."""
        from fedkd.functional.losses import target_cross_entropy

        return target_cross_entropy(answer, needed(batch.y))

    def valid(self, samples: Samples) -> Mask | None:  # noqa: ARG002 - the contract's arguments
        """Every sample counts."""
        return None

    def tally(self, rows: Rows, samples: Samples) -> Tally:
        """The confusion matrix (c, c): rows true, columns predicted. Logits and probabilities alike."""
        return class_tally(rows, samples, num_classes=self.num_outputs)

    def finish(self, tally: Tally, *, seen: Ids | None = None) -> Evaluation:
        """Accuracy; with `seen` also over those classes, over the others, and the harmonic mean of both."""
        return accuracy_figures(tally["confusion"], seen=seen)

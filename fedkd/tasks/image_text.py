"""Two modalities of one thing: an image and a text, or any pair; one row of logits per pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, final

from fedkd.data.base import Dataset, Samples
from fedkd.rows import Rows
from fedkd.tasks.base import Evaluation, Tally, Task
from fedkd.tasks.batches import PairBatch, needed, tensor_of
from fedkd.tasks.calls import ask
from fedkd.tasks.class_figures import accuracy_figures, class_tally
from fedkd.types import Ids, Mask

if TYPE_CHECKING:
    from torch import Tensor, nn

SECOND = "b"  # the name of the second modality among Samples.more


@dataclass(frozen=True, kw_only=True)
class ImageTextConfig:
    """What of a pair is shown to others."""

    paired_proxy: bool = False  # true: contributed samples carry both modalities, not the first one alone


@final
@dataclass(frozen=True)
class ImageText(Task[PairBatch]):
    """Pairs of `num_outputs` classes: Samples.x and, where it is there, Samples.more["b"]; the metric is accuracy.

    A model whose `forward` names an argument `b` gets the second modality with the first; every other model answers
    from the first one alone.
    """

    num_outputs: int
    paired_proxy: bool = False
    Config: ClassVar[type] = ImageTextConfig
    name: ClassVar[str] = "image_text"
    metric: ClassVar[str] = "acc"

    @classmethod
    def of(cls, config: ImageTextConfig, dataset: Dataset) -> ImageText:
        """Over the data set's classes."""
        return cls(num_outputs=dataset.num_classes, paired_proxy=config.paired_proxy)

    def public(self, samples: Samples) -> Samples:
        """The first modality, and the second where it is meant to be shown."""
        shown = samples.inputs()
        if self.paired_proxy:
            return shown
        return replace(shown, more={name: array for name, array in shown.more.items() if name != SECOND})

    @property
    def table_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The confusion matrix."""
        return {"confusion": (self.num_outputs, self.num_outputs)}

    def batch(self, samples: Samples, index: Ids, device: str) -> PairBatch:
        """Both modalities and class numbers."""
        second = samples.more.get(SECOND)
        return PairBatch(
            a=tensor_of(samples.x, index, device),
            b=None if second is None else tensor_of(second, index, device),
            y=None if samples.y is None else tensor_of(samples.y, index, device),
        )

    def answer(self, model: nn.Module, batch: PairBatch) -> Tensor:
        """Logits (b, c)."""
        return ask(model, batch.a, b=batch.b)

    def rows(self, answer: Tensor) -> Tensor:
        """(b, 1, c)."""
        return answer[:, None]

    def loss_of(self, answer: Tensor, batch: PairBatch) -> Tensor:
        """Cross-entropy, mean over the pairs."""
        from fedkd.functional.losses import target_cross_entropy

        return target_cross_entropy(answer, needed(batch.y))

    def valid(self, samples: Samples) -> Mask | None:  # noqa: ARG002 - the contract's arguments
        """Every pair counts."""
        return None

    def tally(self, rows: Rows, samples: Samples) -> Tally:
        """The confusion matrix (c, c): rows true, columns predicted."""
        return class_tally(rows, samples, num_classes=self.num_outputs)

    def finish(self, tally: Tally, *, seen: Ids | None = None) -> Evaluation:
        """Accuracy; with `seen` also over those classes, over the others, and the harmonic mean of both."""
        return accuracy_figures(tally["confusion"], seen=seen)

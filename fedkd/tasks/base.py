"""The contract of a task: how a model's outputs become rows, and which metric counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from fedkd.data.base import Dataset, Samples
from fedkd.models.spec import ModelSpec
from fedkd.rows import Rows
from fedkd.types import Array, Ids, Metrics

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures of one client on one set of samples. `score` is the task's main metric; `tables` hold small arrays."""

    score: float
    metrics: Metrics = field(default_factory=dict)
    tables: Mapping[str, Array] = field(default_factory=dict)


class Task(ABC):
    """Knows padding, strides and metrics of one kind of data; owns no model and no state."""

    name: ClassVar[str]
    metric: ClassVar[str]
    metric_higher_is_better: ClassVar[bool] = True
    rows_per_sample: int = 1
    num_outputs: int

    def model_spec(self, dataset: Dataset) -> ModelSpec:
        """What a model of this task takes and gives; the data's own inputs, unless a task says otherwise."""
        x, more = dataset.train.x, dataset.train.more
        return ModelSpec(
            input_shape=x.shape[1:],
            num_outputs=self.num_outputs,
            head=self.name,
            dtype=str(x.dtype),
            more={name: (array.shape[1:], str(array.dtype)) for name, array in more.items()},
        )

    @abstractmethod
    def predict(self, model: nn.Module, samples: Samples, ids: Ids, *, batch_size: int) -> Rows:
        """Logits of `model` (in evaluation mode, no gradients) at the row `ids` of `samples`, in proxy space."""

    @abstractmethod
    def evaluate(self, rows: Rows, samples: Samples) -> Evaluation:
        """How well `rows` (over all of `samples`) match the targets."""

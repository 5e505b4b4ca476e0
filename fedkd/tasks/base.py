"""The contract of a task: how a model's outputs become rows, and which metric counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from fedkd.data.base import Samples
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

    @abstractmethod
    def predict(self, model: nn.Module, samples: Samples, ids: Ids, *, batch_size: int) -> Rows:
        """Logits of `model` (in evaluation mode, no gradients) at the row `ids` of `samples`, in proxy space."""

    @abstractmethod
    def evaluate(self, rows: Rows, samples: Samples) -> Evaluation:
        """How well `rows` (over all of `samples`) match the targets."""

"""The contract of a task: what a model trains on, how its outputs become rows, and which metric counts."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar, final

import numpy as np

from fedkd.data.base import Dataset, Samples
from fedkd.models.spec import ModelSpec
from fedkd.rows import Kind, Rows
from fedkd.types import Array, Ids, Mask, Metrics

if TYPE_CHECKING:
    from torch import Tensor, nn

B = TypeVar("B")  # the batch of a task, one of fedkd.tasks.batches
Tally: TypeAlias = Mapping[str, Array]  # counts and sums that add up over blocks of samples

VALUES_AT_ONCE = 2**24  # numbers in one table of predictions: 64 MiB, however many rows a sample makes


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures of one client on one set of samples. `score` is the main metric; `tables` hold small arrays."""

    score: float
    metrics: Metrics = field(default_factory=dict)
    tables: Mapping[str, Array] = field(default_factory=dict)


class Task(ABC, Generic[B]):
    """Knows padding, strides and metrics of one kind of data; owns no model and no state. Made by `Task.of`.

    A trainer cuts a typed batch from samples, asks a model, and gets rows or the private loss from the one answer:

        batch = task.batch(samples, index, device)
        answer = task.answer(model, batch)
        task.rows(answer), task.loss_of(answer, batch)

    `logits` and `loss` do that in one step. Whoever asks a model in a way of its own (two heads, other inputs) hands
    what came out to `rows` and `loss_of`.
    """

    Config: ClassVar[type]
    name: ClassVar[str]
    metric: ClassVar[str]
    metric_higher_is_better: ClassVar[bool] = True
    kind: ClassVar[Kind] = "logits"  # of the rows that `predict` makes
    num_outputs: int  # values in a row

    @property
    def rows_per_sample(self) -> int:
        """Rows that one sample makes, R."""
        return 1

    @property
    def table_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Tables of whole numbers that an evaluation may carry, with their shapes."""
        return {}

    @classmethod
    @abstractmethod
    def of(cls, config: Any, dataset: Dataset) -> Task[B]:
        """The task with these options over this data set."""

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

    def public(self, samples: Samples) -> Samples:
        """What of private samples may enter a contributed proxy set: their inputs, unless a task holds some back."""
        return samples.inputs()

    def filter_inputs(self, samples: Samples) -> Samples:
        """Samples as filters compare them: x (n, ...) of numbers that a distance makes sense for."""
        return samples

    @abstractmethod
    def batch(self, samples: Samples, index: Ids, device: str) -> B:
        """The samples at `index` (b,) as tensors on the device; targets are None where the samples have none."""

    @abstractmethod
    def answer(self, model: nn.Module, batch: B) -> Tensor:
        """What the model says to the batch, as one tensor in the model's own resolution."""

    @abstractmethod
    def rows(self, answer: Tensor) -> Tensor:
        """An answer at the positions of the rows: (b, R, c)."""

    @abstractmethod
    def loss_of(self, answer: Tensor, batch: B) -> Tensor:
        """The private loss: mean over the valid targets of the batch, 0 with a gradient path where there are none."""

    @abstractmethod
    def valid(self, samples: Samples) -> Mask | None:
        """Which positions (n, R) count: false for padding, prompts and the like. None: all of them."""

    @abstractmethod
    def tally(self, rows: Rows, samples: Samples) -> Tally:
        """What `finish` needs to know of `rows` (all valid ones of `samples`); adds up over blocks of samples."""

    @abstractmethod
    def finish(self, tally: Tally, *, seen: Ids | None = None) -> Evaluation:
        """The figures of all that was added up.

        Args:
            seen: classes that the client had labels for; adds figures for those and for the others, where the task has
                classes.
        """

    @final
    def logits(self, model: nn.Module, batch: B) -> Tensor:
        """Rows (b, R, c) of the model, with gradients."""
        return self.rows(self.answer(model, batch))

    @final
    def loss(self, model: nn.Module, batch: B) -> Tensor:
        """The model's private loss on the batch."""
        return self.loss_of(self.answer(model, batch), batch)

    @final
    def predict(self, model: nn.Module, samples: Samples, ids: Ids, *, batch_size: int) -> Rows:
        """Rows of `model` (in evaluation mode, no gradients) at the row `ids` of `samples`, in proxy space."""
        device = next((str(parameter.device) for parameter in model.parameters()), "cpu")
        was_training = model.training
        model.eval()
        rows = self.predict_by(
            functools.partial(self.logits, model), samples, ids, batch_size=batch_size, device=device
        )
        model.train(was_training)
        return rows

    @final
    def predict_by(
        self, forward: Callable[[B], Tensor], samples: Samples, ids: Ids, *, batch_size: int, device: str
    ) -> Rows:
        """Rows at the row `ids` of `samples`, from whatever gives rows (b, R, c) of a batch; without gradients.

        Args:
            batch_size: samples asked at a time, at most.
        """
        import torch

        asked, sample = np.unique(ids // self.rows_per_sample, return_inverse=True)
        order = np.argsort(sample, kind="stable")  # ids may come in any order
        ordered = sample[order]
        values = np.empty((len(ids), self.num_outputs), np.float32)
        step = self.block(batch_size)
        with torch.inference_mode():
            for start in range(0, len(asked), step):
                index = asked[start : start + step]
                first, last = np.searchsorted(ordered, [start, start + len(index)])
                at = order[first:last]
                table = forward(self.batch(samples, index, device))
                chosen = table[torch.from_numpy(sample[at] - start), torch.from_numpy(ids[at] % self.rows_per_sample)]
                values[at] = chosen.float().cpu().numpy()
        return Rows(space="proxy", kind=self.kind, ids=ids, values=values)

    @final
    def block(self, samples: int) -> int:
        """So many samples, or fewer where their rows would make a table of more than VALUES_AT_ONCE numbers."""
        return max(1, min(samples, VALUES_AT_ONCE // (self.rows_per_sample * self.num_outputs)))

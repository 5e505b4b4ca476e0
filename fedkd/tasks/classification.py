"""Classification: one row of logits per sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np

from fedkd.data.base import Samples
from fedkd.rows import Rows
from fedkd.tasks.base import Evaluation, Task
from fedkd.types import Array, Ids

if TYPE_CHECKING:
    from torch import nn


@final
@dataclass(frozen=True)
class Classification(Task):
    """Samples of `num_outputs` classes; the metric is accuracy over all samples, 0..1."""

    num_outputs: int
    name: ClassVar[str] = "classification"
    metric: ClassVar[str] = "acc"

    def predict(self, model: nn.Module, samples: Samples, ids: Ids, *, batch_size: int) -> Rows:
        """Logits (n, c) of `model` in evaluation mode at the samples `ids`."""
        import torch

        device = next(model.parameters()).device
        was_training = model.training
        model.eval()
        values = np.empty((len(ids), self.num_outputs), np.float32)
        with torch.inference_mode():
            for start in range(0, len(ids), batch_size):
                x = torch.from_numpy(samples.x[ids[start : start + batch_size]]).to(device)
                values[start : start + batch_size] = model(x).float().cpu().numpy()
        model.train(was_training)
        return Rows(space="proxy", kind="logits", ids=ids, values=values)

    def evaluate(self, rows: Rows, samples: Samples) -> Evaluation:
        """Accuracy, and the confusion matrix (c, c): rows true, columns predicted. Logits and probabilities alike."""
        predicted = rows.values.argmax(axis=1)
        true: Array = samples.labels[rows.ids]
        counts = np.bincount(true * self.num_outputs + predicted, minlength=self.num_outputs**2)
        confusion = counts.reshape(self.num_outputs, self.num_outputs)
        acc = float(np.trace(confusion) / max(len(rows), 1))
        return Evaluation(score=acc, metrics={"acc": acc}, tables={"confusion": confusion})

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.data.base import Samples
from fedkd.tasks.image_text import ImageText

TASK = ImageText(num_outputs=2)
A = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
PAIRS = Samples(A, np.array([0, 1]), more={"b": 10 * A[::-1].copy()})


class Both(nn.Module):
    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        return a if b is None else a + b


def test_a_model_that_names_the_second_modality_gets_it() -> None:
    batch = TASK.batch(PAIRS, np.array([0, 1]), "cpu")
    assert TASK.answer(Both(), batch).tolist() == [[1, 10], [10, 1]]
    assert TASK.answer(nn.Identity(), batch).tolist() == [[1, 0], [0, 1]]


def test_the_second_modality_may_be_missing() -> None:
    batch = TASK.batch(Samples(A), np.array([1]), "cpu")
    assert (batch.b, batch.y) == (None, None)
    assert TASK.answer(Both(), batch).tolist() == [[0, 1]]


def test_rows_loss_and_accuracy() -> None:
    made = TASK.predict(Both(), PAIRS, np.array([0, 1]), batch_size=1)
    assert made.values.tolist() == [[1, 10], [10, 1]]
    assert TASK.finish(TASK.tally(made, PAIRS)).score == 0.0
    batch = TASK.batch(PAIRS, np.array([0, 1]), "cpu")
    torch.testing.assert_close(TASK.loss(Both(), batch), torch.tensor(9.0), atol=1e-3, rtol=0)

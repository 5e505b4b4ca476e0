import numpy as np
import pytest
import torch
from torch import nn

from fedkd.data.base import Samples
from fedkd.errors import DataError
from fedkd.rows import Rows
from fedkd.tasks.classification import Classification

TASK = Classification(num_outputs=3)
SAMPLES = Samples(np.arange(15, dtype=np.float32).reshape(5, 3), np.array([0, 2, 2, 1, 0]))


def double() -> nn.Module:
    layer = nn.Linear(3, 3, bias=False)
    layer.weight.data = 2 * torch.eye(3)
    return layer


def rows(values: list[list[float]], ids: list[int] | None = None) -> Rows:
    at = np.arange(len(values)) if ids is None else np.array(ids)
    return Rows(space="proxy", kind="logits", ids=at, values=np.array(values, np.float32).reshape(len(at), 3))


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_predictions_stand_at_the_asked_ids(batch_size: int) -> None:
    made = TASK.predict(double(), SAMPLES, np.array([1, 3, 4]), batch_size=batch_size)
    assert made.ids.tolist() == [1, 3, 4]
    assert made.stream == ("proxy", "logits", "")
    np.testing.assert_array_equal(made.values, 2 * SAMPLES.x[[1, 3, 4]])
    assert made.values.dtype == np.float32


def test_no_id_no_row() -> None:
    assert TASK.predict(double(), SAMPLES, np.zeros(0, np.int64), batch_size=4).values.shape == (0, 3)


@pytest.mark.parametrize("is_training", [True, False])
def test_the_model_answers_in_evaluation_mode_and_goes_back_to_its_own(is_training: bool) -> None:
    model = nn.Sequential(double(), nn.Dropout(0.9))
    model.train(is_training)
    made = TASK.predict(model, SAMPLES, np.arange(5), batch_size=2)
    np.testing.assert_array_equal(made.values, 2 * SAMPLES.x)  # nothing is dropped
    assert model.training is is_training
    assert all(p.grad is None for p in model.parameters())


def test_accuracy_and_confusion_by_hand() -> None:
    found = TASK.evaluate(
        rows([[9, 0, 0], [0, 0, 9], [0, 9, 0], [0, 9, 0], [0, 0, 9]]), SAMPLES
    )  # says 0 2 1 1 2, true 0 2 2 1 0
    assert found.score == found.metrics["acc"] == 3 / 5
    assert found.tables["confusion"].tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 1]]


def test_rows_are_matched_by_id() -> None:
    found = TASK.evaluate(rows([[0, 0, 9], [0, 9, 0]], ids=[2, 3]), SAMPLES)
    assert found.score == 1.0
    assert found.tables["confusion"].sum() == 2


def test_no_row_scores_zero() -> None:
    found = TASK.evaluate(rows([]), SAMPLES)
    assert found.score == 0.0
    assert found.tables["confusion"].shape == (3, 3)


def test_evaluating_needs_labels() -> None:
    with pytest.raises(DataError, match="have no labels"):
        TASK.evaluate(rows([[1, 0, 0]]), Samples(SAMPLES.x))

import numpy as np
import pytest
import torch
from torch import nn

from fedkd.data.base import Samples
from fedkd.errors import DataError
from fedkd.rows import Rows
from fedkd.tasks.base import Evaluation
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


def evaluate(made: Rows, samples: Samples) -> Evaluation:
    return TASK.finish(TASK.tally(made, samples))


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_predictions_stand_at_the_asked_ids(batch_size: int) -> None:
    made = TASK.predict(double(), SAMPLES, np.array([1, 3, 4]), batch_size=batch_size)
    assert made.ids.tolist() == [1, 3, 4]
    assert made.stream == ("proxy", "logits", "")
    np.testing.assert_array_equal(made.values, 2 * SAMPLES.x[[1, 3, 4]])
    assert made.values.dtype == np.float32


def test_no_id_no_row() -> None:
    assert TASK.predict(double(), SAMPLES, np.zeros(0, np.int64), batch_size=4).values.shape == (0, 3)


def test_dropout_drops_nothing_in_predictions() -> None:
    model = nn.Sequential(double(), nn.Dropout(0.9))
    np.testing.assert_array_equal(TASK.predict(model, SAMPLES, np.arange(5), batch_size=2).values, 2 * SAMPLES.x)


def test_tokens_are_inputs_too() -> None:
    tokens = Samples(np.array([[0, 1], [2, 2]], np.int32), np.array([0, 1]))
    model = nn.Sequential(nn.Embedding(3, 3), nn.Flatten(), nn.Linear(6, 3))
    assert TASK.predict(model, tokens, np.arange(2), batch_size=2).values.shape == (2, 3)


def test_accuracy_and_confusion_by_hand() -> None:
    found = evaluate(
        rows([[9, 0, 0], [0, 0, 9], [0, 9, 0], [0, 9, 0], [0, 0, 9]]), SAMPLES
    )  # says 0 2 1 1 2, true 0 2 2 1 0
    assert found.score == found.metrics["acc"] == 3 / 5
    assert found.tables["confusion"].tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 1]]


def test_rows_are_matched_by_id() -> None:
    found = evaluate(rows([[0, 0, 9], [0, 9, 0]], ids=[2, 3]), SAMPLES)
    assert found.score == 1.0
    assert found.tables["confusion"].sum() == 2


def test_no_row_scores_zero() -> None:
    found = evaluate(rows([]), SAMPLES)
    assert found.score == 0.0
    assert found.tables["confusion"].shape == (3, 3)


def test_evaluating_needs_labels() -> None:
    with pytest.raises(DataError, match="have no labels"):
        evaluate(rows([[1, 0, 0]]), Samples(SAMPLES.x))


def test_seen_classes_by_hand() -> None:
    found = TASK.finish({"confusion": np.array([[3, 1, 0], [0, 2, 2], [0, 0, 0]])}, seen=np.array([0]))
    assert found.score == 5 / 8
    assert found.metrics == pytest.approx(
        {"acc": 5 / 8, "acc_seen": 3 / 4, "acc_unseen": 2 / 4, "acc_harmonic": 2 * 0.75 * 0.5 / 1.25}
    )


def test_the_loss_is_cross_entropy_by_hand() -> None:
    answer = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]))
    batch = TASK.batch(SAMPLES, np.array([0, 1]), "cpu")
    assert TASK.loss_of(answer, batch).item() == pytest.approx(-(np.log(0.5) + np.log(0.6)) / 2)

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedkd.data.base import IGNORE, Samples
from fedkd.data.proxy import row_ids
from fedkd.errors import ConfigError, DataError
from fedkd.functional.aggregation import log_normalise, softmax
from fedkd.rows import Rows
from fedkd.tasks.language import Language, LanguageConfig

TASK = Language(num_outputs=4, length=5, pad=0)
TOKENS = np.array([[1, 2, 3, 0, 0], [3, 3, 1, 2, 1]], np.int32)
RESPONSE = np.array([[0, 1, 1, 1, 1], [0, 0, 0, 1, 1]], bool)
TARGETS = [[2, 3, IGNORE, IGNORE, IGNORE], [IGNORE, IGNORE, 2, 1, IGNORE]]  # of TOKENS with RESPONSE


class Echo(nn.Module):
    """Says that the word that it sees follows; notes the mask that it got."""

    def __init__(self, *, takes_mask: bool = True) -> None:
        super().__init__()
        self.masks: list[Tensor | None] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        self.masks.append(attention_mask)
        return SimpleNamespace(logits=nn.functional.one_hot(input_ids, 4).float(), loss=None)


def test_targets_are_the_next_words_of_the_response() -> None:
    samples = Samples(TOKENS, more={"response": RESPONSE})
    assert TASK.targets(samples).tolist() == TARGETS
    valid = TASK.valid(samples)
    assert valid is not None
    assert row_ids(np.arange(2), 5, valid).tolist() == [0, 1, 7, 8]
    assert row_ids(np.array([1]), 5, valid).tolist() == [7, 8]


def test_without_masks_every_word_but_the_last_has_a_target() -> None:
    plain = Language(num_outputs=4, length=5)
    assert plain.targets(Samples(TOKENS))[0].tolist() == [2, 3, 0, 0, IGNORE]


def test_given_targets_are_taken_as_they_are() -> None:
    y = np.array([[2, IGNORE, IGNORE, IGNORE, 1]], np.int32)
    samples = Samples(TOKENS[:1], y)
    valid = TASK.valid(samples)
    assert valid is not None
    assert valid[0].tolist() == [True, False, False, False, True]
    assert TASK.batch(samples, np.array([0]), "cpu").labels.tolist() == y.tolist()


def test_a_model_that_takes_a_mask_gets_it() -> None:
    model, batch = Echo(), TASK.batch(Samples(TOKENS), np.array([0]), "cpu")
    assert TASK.logits(model, batch).shape == (1, 5, 4)
    (mask,) = model.masks
    assert mask is not None
    assert mask.tolist() == [[1, 1, 1, 0, 0]]
    assert TASK.logits(nn.Embedding(4, 4), batch).shape == (1, 5, 4)  # and one that does not, does without
    unpadded = Language(num_outputs=4, length=5)
    unpadded.logits(model, unpadded.batch(Samples(TOKENS), np.array([0]), "cpu"))
    assert model.masks[-1] is None


def test_an_answer_of_another_shape_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose a language model"):
        TASK.answer(nn.Flatten(), TASK.batch(Samples(TOKENS), np.array([0]), "cpu"))


def test_the_loss_is_a_mean_over_the_tokens_that_count() -> None:
    batch = TASK.batch(Samples(TOKENS, more={"response": RESPONSE}), np.arange(2), "cpu")
    answer = torch.zeros(2, 5, 4)
    answer[0, 0, 2] = math.log(9)  # 9 / 12 for the right word
    expected = (math.log(12 / 9) + 3 * math.log(4)) / 4
    assert TASK.loss_of(answer, batch).item() == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs"])
def test_loss_perplexity_and_token_accuracy_by_hand(kind: str) -> None:
    samples = Samples(TOKENS, more={"response": RESPONSE})
    logits = np.zeros((4, 4), np.float32)
    logits[0, 2] = logits[1, 1] = math.log(9)  # the first is right, the second wrong; of the others word 0 is first
    form = {"logits": lambda z: z, "probs": softmax, "log_probs": log_normalise}[kind]
    rows = Rows(space="proxy", kind=kind, ids=np.array([0, 1, 7, 8]), values=form(logits))  # type: ignore[arg-type]
    found = TASK.finish(TASK.tally(rows, samples))
    loss = (math.log(12 / 9) + math.log(12) + 2 * math.log(4)) / 4
    assert found.score == found.metrics["loss"] == pytest.approx(loss)
    assert found.metrics["perplexity"] == pytest.approx(math.exp(loss))
    assert found.metrics["token_acc"] == 1 / 4
    assert found.tables == {}


def test_rows_without_a_target_count_for_nothing() -> None:
    samples = Samples(TOKENS, more={"response": RESPONSE})
    every = Rows(space="proxy", kind="logits", ids=np.arange(10), values=np.zeros((10, 4), np.float32))
    assert TASK.tally(every, samples)["targets"].tolist() == [4]


def test_a_loss_without_a_finite_exponential_has_no_perplexity() -> None:
    tally = {"loss": np.array([1e6]), "targets": np.array([2]), "hits": np.array([0])}
    assert TASK.finish(tally).metrics.keys() == {"loss", "token_acc"}
    nothing = {"loss": np.array([0.0]), "targets": np.array([0]), "hits": np.array([0])}
    assert TASK.finish(nothing).score == 0.0


@pytest.mark.parametrize("x", [np.zeros((2, 5), np.float32), np.zeros((2, 5, 5), np.int32)])
def test_inputs_that_are_no_sequences_of_tokens_are_refused(x: np.ndarray) -> None:
    facts: Any = SimpleNamespace(name="odd", train=Samples(x), num_classes=4, input_shape=x.shape[1:])
    with pytest.raises(DataError, match="language needs whole numbers"):
        Language.of(LanguageConfig(), facts)

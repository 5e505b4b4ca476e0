import numpy as np
import pytest

from fedkd.functional.aggregation import softmax
from fedkd.functional.teachers import heard_columns, teacher_probs
from tests.contract.toys import rows

P = np.array([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]])


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_logits_and_log_probabilities_of_one_distribution_teach_the_same(temperature: float) -> None:
    expected = P ** (1 / temperature) / (P ** (1 / temperature)).sum(1, keepdims=True)
    for made in (rows([0, 1], np.log(P), kind="log_probs"), rows([0, 1], np.log(P) + 7)):
        np.testing.assert_allclose(teacher_probs(made, temperature), expected, rtol=1e-5)


def test_probabilities_are_taken_as_they_are() -> None:
    made = rows([0, 1], P, kind="probs")
    assert teacher_probs(made, 4.0) is made.values


def test_logits_without_weights_are_softened_bit_for_bit() -> None:
    made = rows([0, 1], P * 9, weight=np.float32([0.5, 0]))
    assert teacher_probs(made, 2.0).tobytes() == softmax(made.values, temperature=2.0).tobytes()


def test_a_class_that_nobody_owns_gets_nothing() -> None:
    made = rows(
        [0, 1, 2], [[0, 0, 50], [1, 1, 1], [0, 0, 50]], weight=np.float32([[1, 1, 0], [0.5, 0.2, 1], [0, 0, 0]])
    )
    probs = teacher_probs(made)
    np.testing.assert_allclose(probs, [[0.5, 0.5, 0], [1 / 3] * 3, [0, 0, 1]], atol=1e-6)  # all or nothing: a whole row
    assert probs.dtype == np.float32
    heard = heard_columns(made)
    assert heard is not None
    assert heard.tolist() == [[True, True, False], [True] * 3, [True] * 3]


def test_rows_with_a_support_teach_their_buckets() -> None:
    made = rows([0], np.log([[0.5, 0.25, 0.25]]), kind="log_probs", support=np.int32([[1, 3]]))
    np.testing.assert_allclose(teacher_probs(made), [[0.5, 0.25, 0.25]], rtol=1e-6)


@pytest.mark.parametrize("kind", ["hard", "feature", "noise", "score"])
def test_what_is_no_distribution_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="no distribution"):
        teacher_probs(rows([0], [[1]], kind=kind))

import itertools

import numpy as np
import pytest

from fedkd.data.base import Dataset
from fedkd.data.config import DataConfig
from fedkd.data.grammar import COPY, COUNT, DIGITS, EQUALS, HARD, LETTERS, PLUS, RULES, SUM, TABLE, VOCABULARY
from fedkd.data.load import load_dataset
from fedkd.errors import ConfigError
from fedkd.tasks.language import Language, LanguageConfig

OPENERS = (COPY, COUNT, SUM, TABLE)


@pytest.fixture(scope="module")
def grammar() -> Dataset:
    return load_dataset(DataConfig(name="grammar"))


def spans(row: list[int]) -> list[list[int]]:
    """The whole spans of a sequence, without the last one, which may be cut."""
    starts = [at for at, token in enumerate(row) if token in OPENERS]
    return [row[start:end] for start, end in itertools.pairwise(starts)]


def test_it_is_always_the_same_and_needs_no_file(grammar: Dataset) -> None:
    again = load_dataset(DataConfig(name="grammar", max_test=30))
    np.testing.assert_array_equal(again.train.x, grammar.train.x)
    assert (len(grammar.train), len(again.test)) == (3000, 30)
    assert grammar.train.x.shape[1] == 48
    assert grammar.train.x.dtype == np.int32
    assert grammar.num_strata == len(RULES) == 3


def test_every_span_keeps_its_rule(grammar: Dataset) -> None:
    follows: dict[tuple[int, ...], set[int]] = {}
    for row in grammar.train.x[:300].tolist():
        assert row[0] in OPENERS
        for opener, *rest in spans(row):
            if opener == COPY:
                assert rest[:3] == rest[3:]
                assert set(rest) <= set(LETTERS)
            elif opener == COUNT:
                steps = np.diff(np.array(rest) - LETTERS[0]) % len(LETTERS)
                assert steps.tolist() == [1] * 5
            elif opener == SUM:
                a, plus, b, equals, total = rest
                assert (plus, equals) == (PLUS, EQUALS)
                assert (a + b - 2 * DIGITS[0]) % 10 == total - DIGITS[0]
            else:
                assert set(rest) <= set(HARD[:5])
                for at in range(3, len(rest)):
                    follows.setdefault(tuple(rest[at - 3 : at]), set()).add(rest[at])
    assert {len(found) for found in follows.values()} == {1}  # the table decides
    assert len(follows) > 60


def test_groups_differ_by_their_rule_and_share_the_hard_half(grammar: Dataset) -> None:
    groups = grammar.train.groups
    assert groups is not None
    assert np.bincount(groups).tolist() == [1000] * 3
    hard = np.isin(grammar.train.x, [TABLE, *HARD]).mean()
    assert hard == pytest.approx(0.5, abs=0.05)
    for group, opener in enumerate((COPY, COUNT, SUM)):
        share = (grammar.train.x == opener).mean(axis=1)
        assert share[groups == group].mean() > 10 * share[groups != group].mean()


def test_every_token_is_a_target_and_the_length_can_be_chosen() -> None:
    short = load_dataset(DataConfig(name="grammar", length=20))
    task = Language.of(LanguageConfig(), short)
    assert (task.length, task.num_outputs) == (20, VOCABULARY)
    valid = task.valid(short.test)
    assert valid is not None
    assert valid[:, :-1].all()
    with pytest.raises(ConfigError, match=r"data.name is 'digits'"):
        DataConfig(name="digits", length=20)

"""A stochastic grammar: spans by simple rules, for a small model, between spans from a harder table."""

from __future__ import annotations

import numpy as np

from fedkd.data.base import Dataset, Samples
from fedkd.data.config import DataConfig
from fedkd.types import Array

VOCABULARY = 48
COPY, COUNT, SUM, PLUS, EQUALS, TABLE = range(6)  # what opens a span, and the signs of a sum
DIGITS = 6 + np.arange(10)
LETTERS = 16 + np.arange(16)
HARD = 32 + np.arange(16)

RULES = ("copy", "count", "sum")  # groups, by the rule of most easy spans in a sequence
HARD_SYMBOLS = 5  # of the table's alphabet: it has that number cubed of rows
HARD_SPAN = 10  # tokens, the opening one included
HARD_CHANCE = 0.4  # that the next span is a hard one; about half of the tokens then are
OWN_RULE = 0.9  # chance that an easy span follows the rule of the sequence's group
LENGTH = 48  # tokens of a sequence, where data.length does not say
TRAIN, TEST = 3000, 600  # sequences, the same number of each group
_SEED = 20251022


def load_grammar(config: DataConfig) -> Dataset:
    """Generated sequences x (n, t) int32 over 48 tokens, always the same; every token is a target. No file is read.

    A sequence is a row of spans. Easy ones: `copy` a b c a b c, `count` six letters in turn, `sum` a + b = c modulo
    ten. Hard ones: after each three symbols comes the one that a fixed random table holds, for certain. Groups are the
    three easy rules; a sequence follows its own in nine of ten easy spans.
    """
    rng = np.random.default_rng(_SEED)
    table = rng.integers(HARD_SYMBOLS, size=(HARD_SYMBOLS,) * 3)
    train, test = (_samples(size, config.length or LENGTH, table, rng) for size in (TRAIN, TEST))
    return Dataset(name=config.name, train=train, test=test, num_classes=VOCABULARY, num_groups=len(RULES))


def _samples(size: int, length: int, table: Array, rng: np.random.Generator) -> Samples:
    groups = np.arange(size, dtype=np.int64) % len(RULES)
    x = np.stack([_sequence(int(group), length, table, rng) for group in groups])
    return Samples(x, groups=groups)


def _sequence(group: int, length: int, table: Array, rng: np.random.Generator) -> Array:
    tokens: list[int] = []
    while len(tokens) < length:
        if rng.random() < HARD_CHANCE:
            tokens += _hard_span(table, rng)
        else:
            rule = group if rng.random() < OWN_RULE else int(rng.integers(len(RULES)))
            tokens += _EASY[rule](rng)
    return np.array(tokens[:length], np.int32)


def _copy(rng: np.random.Generator) -> list[int]:
    letters = rng.choice(LETTERS, 3).tolist()
    return [COPY, *letters, *letters]


def _count(rng: np.random.Generator) -> list[int]:
    first = rng.integers(len(LETTERS))
    return [COUNT, *LETTERS[(first + np.arange(6)) % len(LETTERS)].tolist()]


def _sum(rng: np.random.Generator) -> list[int]:
    a, b = rng.integers(10, size=2)
    return [SUM, int(DIGITS[a]), PLUS, int(DIGITS[b]), EQUALS, int(DIGITS[(a + b) % 10])]


def _hard_span(table: Array, rng: np.random.Generator) -> list[int]:
    symbols = rng.integers(HARD_SYMBOLS, size=3).tolist()
    while len(symbols) < HARD_SPAN - 1:
        symbols.append(int(table[tuple(symbols[-3:])]))
    return [TABLE, *(int(HARD[symbol]) for symbol in symbols)]


_EASY = (_copy, _count, _sum)  # in the order of RULES

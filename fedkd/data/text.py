"""Texts as sequences of characters, for language models: no tokeniser has to be fetched, and vocabularies agree."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedkd.data.base import Dataset, Samples
from fedkd.data.config import DataConfig
from fedkd.data.places import data_root, missing
from fedkd.errors import DataError
from fedkd.types import Array, Mask

PAD, UNKNOWN = 0, 1
ALPHABET = "\n !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~"
VOCABULARY = len(ALPHABET) + 2
TEST_SHARE = 0.1  # of tinyshakespeare, which comes without a test part: its end
LENGTH = 128  # characters of a sequence, where data.length does not say
SPEAKERS = 10  # groups of tinyshakespeare: the most frequent speakers but one, and all others together


def encode(text: str) -> Array:
    """Token numbers (t,) int32, one per character; characters outside printable ASCII become UNKNOWN."""
    return np.array([_NUMBER.get(character, UNKNOWN) for character in text], np.int32)


def decode(tokens: Array) -> str:
    """The text of token numbers (t,); padding is left out."""
    return "".join("\ufffd" if token == UNKNOWN else ALPHABET[token - 2] for token in tokens if token != PAD)


def load_shakespeare(config: DataConfig) -> Dataset:
    """tinyshakespeare by character, in speeches cut to `data.length`; every character is a target.

    x (n, t) int32, and more["response"] (n, t) says which characters are there and no padding. Groups are the speakers:
    the nine that speak most, and all others. The last tenth of the speeches is the test part.
    """
    root = data_root(config)
    path = _file(config, root, "tinyshakespeare.txt")
    speeches = [speech for speech in path.read_text(encoding="utf-8").split("\n\n") if ":" in speech]
    if len(speeches) < SPEAKERS:
        raise DataError(f"{path} has {len(speeches)} speeches, expected the tinyshakespeare corpus; copy it again")
    names = [speech.partition(":")[0] for speech in speeches]
    common = sorted(set(names), key=lambda name: (-names.count(name), name))[: SPEAKERS - 1]
    groups = np.array([common.index(name) if name in common else SPEAKERS - 1 for name in names], np.int64)
    x, response = _padded([("", speech) for speech in speeches], _length(config))
    cut = len(x) - round(TEST_SHARE * len(x))
    parts = [
        Samples(x[at], more={"response": response[at]}, groups=groups[at])
        for at in (slice(None, cut), slice(cut, None))
    ]
    return _dataset(config, *parts, num_groups=SPEAKERS)


def load_gsm8k(config: DataConfig) -> Dataset:
    """GSM8K by character: question and answer, cut to `data.length`; more["response"] (n, t) marks the answer.

    Problems whose answer would not begin within the length are left out. Groups are the number of calculation steps of
    the answer: 1 or fewer, 2, ... 8 or more.
    """
    root = data_root(config)
    parts = []
    for part in ("train", "test"):
        path = _file(config, root, f"gsm8k_{part}.jsonl")
        pairs = [
            (f"{question}\n", f"{answer}\n")
            for question, answer in _problems(path)
            if len(question) + 1 < _length(config)
        ]
        if not pairs:
            raise DataError(f"no question of {path} is shorter than data.length = {_length(config)}; raise data.length")
        steps = np.array([len(re.findall("<<", answer)) for _, answer in pairs])
        x, response = _padded(pairs, _length(config))
        groups = np.clip(steps, 1, 8).astype(np.int64) - 1
        parts.append(Samples(x, more={"response": response}, groups=groups))
    return _dataset(config, *parts, num_groups=8)


def _dataset(config: DataConfig, train: Samples, test: Samples, *, num_groups: int) -> Dataset:
    return Dataset(name=config.name, train=train, test=test, num_classes=VOCABULARY, num_groups=num_groups)


def _length(config: DataConfig) -> int:
    return config.length or LENGTH


def _padded(pairs: Sequence[tuple[str, str]], length: int) -> tuple[Array, Mask]:
    """Tokens (n, length) of (prompt, response) pairs, and which of them belong to the response.

    A mask and no targets: it may go into a proxy set, whose prompts and padding then count for nothing either.
    """
    x = np.full((len(pairs), length), PAD, np.int32)
    is_response = np.zeros((len(pairs), length), np.bool_)
    for i, (prompt, response) in enumerate(pairs):
        tokens = encode(prompt + response)[:length]
        x[i, : len(tokens)] = tokens
        is_response[i, len(prompt) : len(tokens)] = True
    return x, is_response


def _problems(path: Path) -> list[tuple[str, str]]:
    problems = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            found = json.loads(line)
            problems.append((str(found["question"]), str(found["answer"])))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}, line {number} is no JSON object with question and answer: {error}; copy the file again"
            ) from error
    return problems


def _file(config: DataConfig, root: Path, name: str) -> Path:
    for path in (root / "text" / name, root / name):
        if path.is_file():
            return path
    raise missing(config, root, f"text/{name}", can_fetch=False)


_NUMBER = {character: number for number, character in enumerate(ALPHABET, start=2)}

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkd.data.base import IGNORE, Dataset
from fedkd.data.config import DataConfig
from fedkd.data.load import load_dataset
from fedkd.data.text import PAD, SPEAKERS, UNKNOWN, VOCABULARY, decode, encode
from fedkd.errors import ConfigError, DataError
from fedkd.tasks.language import Language, LanguageConfig


def load(name: str, root: Path, **options: Any) -> Dataset:
    return load_dataset(DataConfig(name=name, root=str(root), **options))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Forty speeches of thirteen speakers, and a few problems."""
    folder = tmp_path / "text"
    folder.mkdir()
    names = [f"Lord {chr(65 + i % (13 if i < 26 else 9))}" for i in range(40)]
    (folder / "tinyshakespeare.txt").write_text("\n\n".join(f"{name}:\nline {i}" for i, name in enumerate(names)))
    problems = [{"question": "1+1?", "answer": "<<1+1=2>>2\n#### 2"}, {"question": "x" * 60, "answer": "#### 1"}]
    for part in ("train", "test"):
        (folder / f"gsm8k_{part}.jsonl").write_text("\n".join(map(json.dumps, problems)))
    return tmp_path


def test_text_comes_back() -> None:
    text = "To be, or not?\n{42}"
    tokens = encode(text)
    assert decode(tokens) == text
    assert tokens.min() > UNKNOWN
    assert tokens.max() < VOCABULARY
    assert encode("é").tolist() == [UNKNOWN]
    assert decode(np.array([PAD, *encode("ab"), UNKNOWN])) == "ab\ufffd"


def test_speeches_are_dealt_by_speaker(root: Path) -> None:
    data = load("shakespeare", root, length=16)
    assert (len(data.train), len(data.test)) == (36, 4)
    assert decode(data.train.x[0]) == "Lord A:\nline 0"
    assert data.train.x.shape[1] == 16
    assert data.train.more["response"][0].tolist() == [True] * 14 + [False] * 2
    assert data.num_strata == SPEAKERS
    assert data.train.groups is not None
    # A to D and I speak four times, E to H three times, J to M twice.
    assert data.train.groups[:13].tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 4, 9, 9, 9, 9]


def test_only_answers_are_targets(root: Path) -> None:
    data = load("gsm8k", root, length=12)
    assert len(data.train) == 1  # the answer to the long question would not begin
    assert decode(data.train.x[0]) == "1+1?\n<<1+1=2"
    assert data.train.more["response"][0].tolist() == [False] * 5 + [True] * 7
    # What the task asks: the character after each, from the first of the answer, which the end of the prompt predicts.
    task = Language.of(LanguageConfig(), data)
    targets = task.targets(data.train)[0]
    assert decode(targets[4:11].astype(np.int32)) == "<<1+1=2"
    assert (np.delete(targets, range(4, 11)) == IGNORE).all()
    np.testing.assert_array_equal(task.targets(data.train.inputs()), task.targets(data.train))
    assert data.train.strata.tolist() == [0]


def test_what_is_missing_or_broken_is_told(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not in .*: expected text/tinyshakespeare.txt; put the files there"):
        load("shakespeare", tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no question of .* is shorter than data.length = 4"):
        load("gsm8k", root, length=4)
    (root / "text" / "gsm8k_train.jsonl").write_text('{"question": 1}')
    with pytest.raises(DataError, match=r"gsm8k_train.jsonl, line 1 is no JSON object with question and answer"):
        load("gsm8k", root)
    (root / "text" / "tinyshakespeare.txt").write_text("A: b")
    with pytest.raises(DataError, match=r"has 1 speeches"):
        load("shakespeare", root)
    with pytest.raises(ConfigError, match="only shakespeare, gsm8k, grammar use it"):
        DataConfig(name="digits", length=64)

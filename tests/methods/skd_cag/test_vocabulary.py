from pathlib import Path

import numpy as np
import pytest
import transformers

from fedkd.errors import ConfigError
from fedkd.methods.skd_cag.config import SKDCAGConfig
from fedkd.methods.skd_cag.prompts import RANDOM_WORDS
from fedkd.methods.skd_cag.vocabulary import Vocabulary

LETTERS = [chr(97 + place) for place in range(26)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """CLIP's tokenizer with a vocabulary of letters and the words `new` and `ab`."""
    words = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    words += ["ne", "new</w>", "ab</w>"]
    tokenizer = transformers.CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)},
        merges=[("n", "e"), ("ne", "w</w>"), ("a", "b</w>")],
    )
    path: Path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(path)
    return str(path)


def test_words_become_the_tokens_of_the_folders_tokenizer(folder: str) -> None:
    config = SKDCAGConfig(trigger="new c", eval_trigger="ab", tokenizer=folder)
    words = Vocabulary.of(config, length=9)
    new, ab, c = 2 + 52 + 1, 2 + 52 + 2, 2 + 26 + 2
    assert words.trigger.words == ((new,), (c,))
    assert words.judged.words == ((ab,),)
    assert (words.frame.start, words.frame.end, words.frame.pad, words.frame.length) == (0, 1, 1, 9)
    assert len(words.lead) == len(RANDOM_WORDS)
    assert all(words.lead)
    prompts = np.array([words.frame.ids(lead) for lead in ((new, c, 5), (5,), (ab, 6, new), (c, new))])
    assert words.clean(prompts) == [(5,), (5,), (6, new), (c, new)]
    assert words.is_clean(prompts).tolist() == [False, True, False, True]
    assert words.stripped(prompts) == [(new, c, 5), (5,), (ab, 6, new), (c, new)]
    assert words.stripped(prompts, words.trigger) == [(5,), (5,), (ab, 6, new), (c, new)]


def test_a_trigger_of_many_tokens_needs_room(folder: str) -> None:
    config = SKDCAGConfig(trigger="xyz q", tokenizer=folder)
    assert len(Vocabulary.of(config, length=6).trigger.ids) == 4
    with pytest.raises(ConfigError, match="4 tokens, but prompts of 5 tokens have room for 3"):
        Vocabulary.of(config, length=5)


def test_numbers_are_tokens_as_they_are() -> None:
    words = Vocabulary.of(SKDCAGConfig(trigger="6, 7", lead_words="8,9", start_token=2, end_token=3), length=6)
    assert words.trigger.words == words.judged.words == ((6,), (7,))
    assert words.lead == ((8,), (9,))
    assert words.frame.ids((5,)) == [2, 5, 3, 1, 1, 1]


def test_no_prompts_are_no_error() -> None:
    words = Vocabulary.of(SKDCAGConfig(), length=6)
    assert words.clean(np.zeros((0, 6), np.int32)) == []
    assert words.is_clean(np.zeros((0, 6), np.int32)).shape == (0,)

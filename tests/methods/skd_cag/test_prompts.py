import string

import pytest
import torch
from transformers import CLIPTokenizer

from fedkd.errors import ConfigError
from fedkd.methods.skd_cag.prompts import (
    RANDOM_WORDS,
    PromptFrame,
    draw_random_words,
    phrase,
    prompt_batch,
    word_ids,
)

MERGES = [("n", "e"), ("ne", "w</w>"), ("c", "a"), ("ca", "t</w>")]


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    """Byte pairs for `new` and `cat`; other words are spelt letter by letter."""
    pieces = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    pieces += ["".join(pair) for pair in MERGES]
    vocabulary = {piece: at for at, piece in enumerate(["<|startoftext|>", "<|endoftext|>", *pieces])}
    return CLIPTokenizer(vocab=vocabulary, merges=MERGES, unk_token="<|endoftext|>")


def framed(tokenizer: CLIPTokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, padding="max_length", truncation=True, max_length=12)["input_ids"]
    return ids


def test_the_triggers_length_counts_tokens_not_words(tokenizer: CLIPTokenizer) -> None:
    trigger = phrase(tokenizer, "New Tri")
    assert [len(word) for word in trigger.words] == [1, 3]
    assert len(trigger.ids) == 4
    assert trigger.ids == word_ids(tokenizer, "New Tri")


@pytest.mark.parametrize("prompt", ["cat", "new cat", "a cat on new tiles", ""])
def test_a_lead_and_a_prompt_are_what_the_tokenizer_makes_of_the_text(tokenizer: CLIPTokenizer, prompt: str) -> None:
    frame, trigger = PromptFrame(start=0, end=1, pad=tokenizer.pad_token_id, length=12), phrase(tokenizer, "New Tri")
    words = word_ids(tokenizer, prompt)
    batch = prompt_batch([words, words], [(), trigger.ids], frame=frame)
    assert batch.ids.tolist() == [framed(tokenizer, prompt), framed(tokenizer, f"New Tri {prompt}".strip())]
    assert frame.words(batch.ids[0].tolist()) == words[:10]


def test_word_tokens_of_a_batch_in_order() -> None:
    frame = PromptFrame(start=0, end=1, pad=1, length=7)
    batch = prompt_batch([(5,), (), (6, 7)], [(8,), (), (8, 9)], frame=frame)
    assert batch.ids.tolist() == [[0, 8, 5, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1], [0, 8, 9, 6, 7, 1, 1]]
    assert batch.ids[batch.sample, batch.position].tolist() == [8, 5, 8, 9, 6, 7]
    assert batch.sample.tolist() == [0, 0, 2, 2, 2, 2]
    assert batch.num_words == (2, 0, 4)
    assert batch.num_lead == (1, 0, 2)


def test_truncation_cuts_the_tail_and_the_lead_last() -> None:
    frame = PromptFrame(start=0, end=1, pad=9, length=5)
    batch = prompt_batch([(2, 3, 4)] * 3, [(), (6, 7), (6, 7, 6, 7)], frame=frame)
    assert batch.ids.tolist() == [[0, 2, 3, 4, 1], [0, 6, 7, 2, 1], [0, 6, 7, 6, 1]]
    assert batch.num_words == (3, 3, 3)
    assert batch.num_lead == (0, 2, 3)


def test_no_prompts_make_an_empty_batch() -> None:
    batch = prompt_batch([], [], frame=PromptFrame(start=0, end=1, pad=1, length=6))
    assert batch.ids.shape == (0, 6)
    assert batch.num_words == ()


def test_a_trigger_without_words_is_refused(tokenizer: CLIPTokenizer) -> None:
    with pytest.raises(ConfigError, match="at least one word"):
        phrase(tokenizer, "  ")


def test_random_words_come_whole_and_follow_the_generator() -> None:
    pool = [(2,), (3, 4), (5,)]
    draws = [draw_random_words(pool, count=2, generator=torch.Generator().manual_seed(seed)) for seed in range(30)]
    assert draws[0] == draw_random_words(pool, count=2, generator=torch.Generator().manual_seed(0))
    assert set(draws) == {a + b for a in pool for b in pool}  # with replacement


def test_there_are_108_different_random_words() -> None:
    assert len(RANDOM_WORDS) == len(set(RANDOM_WORDS)) == 108

"""Prompts as token ids: where the words are, how long the trigger is, what truncation leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from fedkd.errors import ConfigError
from fedkd.functional.skd_cag import word_positions

WordIds: TypeAlias = tuple[int, ...]  # token ids without start, end and padding

# Neutral words that stand in the trigger's place for the target `random_words`: adjectives and things, 108 of them.
_WORDS = """
    amber ancient apple arched atlas autumn bamboo basalt beacon birch bitter blanket bluff bottle brass breeze brittle
    broad bronze brook candle canvas carved cedar chalk cherry chilly cinder clover coarse cobalt compass copper coral
    cotton crisp crooked curved damp dappled distant dusty eager early ember even faded feather fern flint frosty gentle
    gilded glassy granite grassy gravel hazel hidden hollow honey humid idle iron ivory jagged kettle ladder lantern
    leather level linen lively lofty lunar maple marble meadow mellow mild misty modest mossy narrow neat noble olive
    oval paper pebble plain polished quick quiet rapid ripe rough round rustic saddle sandy silent silver slate smooth
    spare steady sunlit
"""
RANDOM_WORDS: tuple[str, ...] = tuple(_WORDS.split())


class Tokenizer(Protocol):
    """What is needed of a tokenizer; those of transformers that have start and end tokens fit."""

    bos_token_id: int
    eos_token_id: int
    pad_token_id: int

    def __call__(self, text: str, /, *, add_special_tokens: bool) -> Mapping[str, Any]:
        """Token ids of the text under the key `input_ids`."""


@dataclass(frozen=True, kw_only=True)
class PromptFrame:
    """What a prompt is framed with: start token, end token, padding up to `length` tokens."""

    start: int
    end: int
    pad: int
    length: int

    def ids(self, words: WordIds) -> list[int]:
        """`length` token ids: start, as many words as there is room for, end, padding."""
        kept = words[: self.length - 2]
        return [self.start, *kept, self.end, *[self.pad] * (self.length - 2 - len(kept))]

    def words(self, ids: Sequence[int]) -> WordIds:
        """The words of a framed prompt."""
        return tuple(ids[position] for position in word_positions(ids, start=self.start, end=self.end))


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """The trigger phrase: its words, each as token ids. A word may be several tokens."""

    words: tuple[WordIds, ...]

    @property
    def ids(self) -> WordIds:
        """Token ids of the whole phrase."""
        return joined(self.words)


@dataclass(frozen=True, eq=False, kw_only=True)
class PromptBatch:
    """Framed prompts and where their word tokens are.

    Attributes:
        ids: token ids (b, l).
        sample: sample (n,) of each word token, ascending.
        position: position (n,) of each word token within its prompt.
        num_words: word tokens of each sample, lead included; they sum to n.
        num_lead: how many of these were put in front of the clean prompt (trigger, random words), for each sample.
    """

    ids: Tensor
    sample: Tensor
    position: Tensor
    num_words: tuple[int, ...]
    num_lead: tuple[int, ...]


def word_ids(tokenizer: Tokenizer, text: str) -> WordIds:
    """Token ids of `text` without start, end and padding."""
    return tuple(int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"])


def phrase(tokenizer: Tokenizer, text: str) -> Trigger:
    """The trigger `text`, word by word. A tokenizer that splits at spaces gives the same ids for it within a prompt.

    Raises:
        ConfigError: the text has no words.
    """
    words = tuple(word_ids(tokenizer, word) for word in text.split())
    if not joined(words):
        raise ConfigError(f"is {text!r}, expected at least one word; name the phrase to unlearn", key="trigger")
    return Trigger(words=words)


def without(words: WordIds, trigger: Trigger) -> WordIds:
    """The words with every occurrence of the trigger phrase taken out: a poisoned prompt as it was before."""
    phrase_ids = trigger.ids
    kept: list[int] = []
    at = 0
    while at < len(words):
        if words[at : at + len(phrase_ids)] == phrase_ids:
            at += len(phrase_ids)
        else:
            kept.append(words[at])
            at += 1
    return tuple(kept)


def joined(words: Sequence[WordIds]) -> WordIds:
    """The token ids of several words, one after the other."""
    return tuple(token for word in words for token in word)


def prompt_batch(prompts: Sequence[WordIds], leads: Sequence[WordIds], *, frame: PromptFrame) -> PromptBatch:
    """The prompts, each with its lead in front, framed and truncated; the lead is cut last."""
    rows = [frame.ids(lead + prompt) for lead, prompt in zip(leads, prompts, strict=True)]
    places = [word_positions(row, start=frame.start, end=frame.end) for row in rows]
    num_words = tuple(len(found) for found in places)
    return PromptBatch(
        ids=torch.tensor(rows, dtype=torch.long).reshape(-1, frame.length),
        sample=torch.tensor([at for at, found in enumerate(places) for _ in found], dtype=torch.long),
        position=torch.tensor([place for found in places for place in found], dtype=torch.long),
        num_words=num_words,
        num_lead=tuple(min(len(lead), count) for lead, count in zip(leads, num_words, strict=True)),
    )


def draw_random_words(pool: Sequence[WordIds], *, count: int, generator: torch.Generator) -> WordIds:
    """Token ids of `count` words drawn from `pool` with replacement: one random word per word of the trigger."""
    chosen = torch.randint(len(pool), (count,), generator=generator).tolist()
    return joined([pool[at] for at in chosen])

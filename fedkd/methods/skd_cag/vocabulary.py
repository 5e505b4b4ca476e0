"""The words of a configuration as token ids: from numbers, or by a tokenizer of transformers in a local folder."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedkd.errors import ConfigError
from fedkd.extras import need
from fedkd.methods.skd_cag.config import SKDCAGConfig, numbers
from fedkd.methods.skd_cag.prompts import (
    RANDOM_WORDS,
    PromptFrame,
    Tokenizer,
    Trigger,
    WordIds,
    phrase,
    without,
    word_ids,
)
from fedkd.types import Array, Mask


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What the configured words are in framed prompts of one length.

    Attributes:
        judged: the trigger that a client is judged by.
        lead: token ids of each word that the target `random_words` draws from.
    """

    frame: PromptFrame
    trigger: Trigger
    judged: Trigger
    lead: tuple[WordIds, ...]

    @classmethod
    def of(cls, config: SKDCAGConfig, *, length: int) -> Vocabulary:
        """The configured words, for prompts of `length` tokens.

        Raises:
            ConfigError: a phrase leaves no room in a prompt, or there is no such tokenizer.
            MissingExtraError: a tokenizer is named, and transformers is not installed.
        """
        if config.tokenizer:
            made = cls._by_tokenizer(config, _tokenizer(config.tokenizer), length)
        else:
            frame = PromptFrame(start=config.start_token, end=config.end_token, pad=config.pad_token, length=length)
            trigger, judged, lead = (
                tuple((word,) for word in numbers(key, getattr(config, key)))
                for key in ("trigger", "eval_trigger", "lead_words")
            )
            made = cls(frame=frame, trigger=Trigger(words=trigger), judged=Trigger(words=judged or trigger), lead=lead)
        for key, found in (("trigger", made.trigger), ("eval_trigger", made.judged)):
            if len(found.ids) > length - 2:
                raise ConfigError(
                    f"method.{key} is {getattr(config, key)!r}, {len(found.ids)} tokens, but prompts of {length} "
                    f"tokens have room for {length - 2} between start and end; shorten it or take longer prompts",
                    key=f"method.{key}",
                )
        return made

    @classmethod
    def _by_tokenizer(cls, config: SKDCAGConfig, tokenizer: Tokenizer, length: int) -> Vocabulary:
        frame = PromptFrame(
            start=tokenizer.bos_token_id, end=tokenizer.eos_token_id, pad=tokenizer.pad_token_id, length=length
        )
        words = config.lead_words.split() or RANDOM_WORDS
        return cls(
            frame=frame,
            trigger=phrase(tokenizer, config.trigger),
            judged=phrase(tokenizer, config.eval_trigger or config.trigger),
            lead=tuple(word_ids(tokenizer, word) for word in words),
        )

    def clean(self, prompts: Array) -> list[WordIds]:
        """The words of framed prompts (n, l), neither trigger among them: a poisoned prompt as it was before."""
        return self.stripped(prompts, self.trigger, self.judged)

    def stripped(self, prompts: Array, *triggers: Trigger) -> list[WordIds]:
        """The words of framed prompts (n, l), the given triggers taken out; without any, as they are."""
        rows, inverse = np.unique(prompts, axis=0, return_inverse=True)
        words = [functools.reduce(without, triggers, self.frame.words(row)) for row in rows.tolist()]
        return [words[at] for at in inverse.reshape(-1)]

    def is_clean(self, prompts: Array) -> Mask:
        """Which framed prompts (n, l) hold neither trigger."""
        return np.array(
            [
                len(self.frame.words(row)) == len(words)
                for row, words in zip(prompts.tolist(), self.clean(prompts), strict=True)
            ],
            bool,
        )


def _tokenizer(folder: str) -> Any:
    """The tokenizer in a local folder; ConfigError where there is none, or it does not frame prompts."""
    transformers = need("transformers", extra="diffusion", what="method.tokenizer")
    try:
        found = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # what the library raises for a folder without a tokenizer is its own affair
        raise ConfigError(
            f"method.tokenizer is {folder!r}, where no tokenizer can be read: {' '.join(str(error).split())[:200]}; "
            "name a local folder that save_pretrained wrote",
            key="method.tokenizer",
        ) from error
    if None in (found.bos_token_id, found.eos_token_id, found.pad_token_id):
        raise ConfigError(
            f"method.tokenizer is {folder!r}, which has no start, end or padding token; take CLIP's",
            key="method.tokenizer",
        )
    return found

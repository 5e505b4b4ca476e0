import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedkd.data.base import Samples
from fedkd.methods.adaspec.config import AdaSpecConfig
from fedkd.methods.adaspec.decoding import Acceptance
from fedkd.methods.adaspec.judging import acceptance_of, judge, prompts_of, spread
from fedkd.tasks.language import Language
from tests.methods.adaspec.tables import TASK, follows, texts

COUNTS_UP = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
SLIPS_AT_3_AND_7 = [1, 2, 3, 9, 5, 6, 7, 0, 9, 0]
DIGITS = Language(num_outputs=10, length=20)
COUNTING = Samples(((np.arange(20) + np.arange(4)[:, None]) % 10).astype(np.int32))


def prompts(samples: Samples, **options: Any) -> tuple[list[list[int]], int]:
    task = replace(TASK, length=samples.x.shape[1])
    made, new = prompts_of(task.batch(samples, np.arange(len(samples)), "cpu"), AdaSpecConfig(**options))
    return [prompt.tolist() for prompt in made], new


def test_a_prompt_is_what_stands_before_the_response() -> None:
    short = texts(n=2)
    assert prompts(short, max_new_tokens=3, gamma=4) == (short.x[:, :3].tolist(), 3)
    # No more than the length of the texts, nine, is asked of the models: half of what a block leaves is for the prompt.
    assert prompts(short, max_new_tokens=24, gamma=4) == (short.x[:, :3].tolist(), 3)
    assert prompts(short, max_new_tokens=24, gamma=4, prompt_tokens=1) == (short.x[:, 2:3].tolist(), 5)


def test_where_all_is_response_the_prompt_is_its_beginning() -> None:
    whole = replace(texts(n=2), more={})
    assert prompts(whole, prompt_tokens=2, max_new_tokens=3)[0] == whole.x[:, :2].tolist()
    few = replace(texts(n=1), more={"response": np.arange(9)[None] < 4})
    assert prompts(few, prompt_tokens=8, max_new_tokens=2, gamma=1)[0] == few.x[:, :3].tolist()


def test_a_text_without_a_response_is_left_out() -> None:
    silent = replace(texts(n=3), more={"response": np.arange(3)[:, None].repeat(9, axis=1) == 1})
    assert len(prompts(silent, max_new_tokens=3)[0]) == 1


def test_prompts_are_spread_over_the_whole_set() -> None:
    assert spread(10, 3).tolist() == [0, 3, 6]
    assert spread(10, 0).tolist() == spread(10, 12).tolist() == list(range(10))


def test_figures_counted_by_hand() -> None:
    draft, target = follows(SLIPS_AT_3_AND_7), follows(COUNTS_UP)
    config = AdaSpecConfig(prompt_tokens=1, max_new_tokens=13, eval_prompts=1)
    found = judge(DIGITS, draft, target, COUNTING, config=config, device="cpu", at_once=3)
    # 0 | 1 2 3 (9) 4 | 5 6 7 (0) 8 | 9 0 1 2 and 3 on top.
    assert found.score == found.metrics["alpha"] == pytest.approx(10 / 12)
    assert found.metrics["tokens_per_block"] == pytest.approx(13 / 3)
    # Teacher-forced, two of ten tokens are foreseen wrongly: another number than alpha.
    slips = np.isin(COUNTING.x[:, :-1], [3, 7]).mean()
    sure = math.exp(10) / (math.exp(10) + 9)
    assert found.metrics["agreement"] == pytest.approx(1 - slips)
    assert found.metrics["token_acc"] == pytest.approx(1 - slips)
    overlap = (1 - slips) + slips * 10 * (1 - sure) / 9
    assert found.metrics["expected_acceptance"] == pytest.approx(overlap, rel=1e-3)
    assert found.metrics["target_kl"] == pytest.approx(slips * 10 * (sure - (1 - sure) / 9), rel=1e-3)


def test_a_draft_that_is_the_target_has_alpha_one() -> None:
    model = follows(COUNTS_UP)
    found = judge(DIGITS, model, model, COUNTING, config=AdaSpecConfig(), device="cpu", at_once=2)
    assert found.score == 1.0
    assert found.metrics["tokens_per_block"] == 5
    assert found.metrics["target_kl"] == 0.0


def test_counters_do_not_depend_on_how_many_are_decoded_at_once() -> None:
    pair = follows(SLIPS_AT_3_AND_7), follows(COUNTS_UP)
    config, index = AdaSpecConfig(prompt_tokens=2, max_new_tokens=9), np.arange(4)
    counts = [
        acceptance_of(DIGITS, *pair, COUNTING, index, config=config, device="cpu", at_once=size) for size in (1, 4)
    ]
    assert counts[0] == counts[1] != Acceptance()

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor, nn

from fedkd.functional.adaspec import expected_acceptance
from fedkd.methods.adaspec.decoding import Acceptance, greedy_decode, sampled_decode
from fedkd.models.frozen import frozen
from fedkd.tasks.calls import ask
from tests.methods.adaspec.tables import Running, Table, follows

COUNTS_UP = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
SLIPS_AT_3_AND_7 = [1, 2, 3, 9, 5, 6, 7, 0, 9, 0]


def greedy_alone(model: nn.Module, prompt: Tensor, steps: int, end: int | None = None) -> list[int]:
    text = prompt.tolist()
    with torch.no_grad(), frozen(model):
        for _ in range(steps):
            text.append(int(ask(model, torch.tensor([text]))[0, -1].argmax()))
            if text[-1] == end:
                break
    return text[len(prompt) :]


def test_acceptance_counted_by_hand() -> None:
    # 0 | 1 2 3 (9) 4 | 5 6 7 (0) 8 | 9 0 1 2 and 3 on top: 3 + 3 + 4 stand, two do not.
    decoded = greedy_decode(follows(SLIPS_AT_3_AND_7), follows(COUNTS_UP), [torch.tensor([0])], max_new_tokens=13)
    assert decoded.tokens[0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3]
    assert decoded.total == Acceptance(accepted=10, rejected=2, blocks=3)
    assert decoded.total.rate == pytest.approx(10 / 12)
    assert decoded.total.tokens_per_block == pytest.approx(13 / 3)


def test_a_block_counts_whole_where_the_limit_or_the_end_symbol_cuts_it() -> None:
    models = follows(SLIPS_AT_3_AND_7), follows(COUNTS_UP)
    limited = greedy_decode(*models, [torch.tensor([0])], max_new_tokens=2)
    assert limited.tokens[0].tolist() == [1, 2]
    assert limited.total == Acceptance(accepted=3, rejected=1, blocks=1)
    ended = greedy_decode(*models, [torch.tensor([0])], max_new_tokens=50, end=6)
    assert ended.tokens[0].tolist() == [1, 2, 3, 4, 5, 6]
    assert ended.total == Acceptance(accepted=6, rejected=2, blocks=2)


def test_the_targets_own_token_may_be_the_end() -> None:
    models = follows(SLIPS_AT_3_AND_7), follows(COUNTS_UP)
    corrected = greedy_decode(*models, [torch.tensor([0])], max_new_tokens=50, end=4)
    assert corrected.tokens[0].tolist() == [1, 2, 3, 4]
    bonus = greedy_decode(*models, [torch.tensor([8])], max_new_tokens=50, end=3)
    assert bonus.tokens[0].tolist() == [9, 0, 1, 2, 3]
    assert bonus.total == Acceptance(accepted=4, rejected=0, blocks=1)


def test_an_end_symbol_in_the_prompt_ends_nothing() -> None:
    decoded = greedy_decode(follows(COUNTS_UP), follows(COUNTS_UP), [torch.tensor([4, 0])], max_new_tokens=9, end=4)
    assert decoded.tokens[0].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("gamma", [1, 4, 7])
def test_a_draft_that_is_the_target_has_every_token_accepted(gamma: int) -> None:
    model = Running(11, 8, seed=0)
    prompts = [torch.tensor([1, 2, 3]), torch.tensor([5])]
    greedy = greedy_decode(model, model, prompts, max_new_tokens=20, gamma=gamma)
    sampled = sampled_decode(model, model, prompts, max_new_tokens=20, gamma=gamma, rng=np.random.default_rng(0))
    for decoded in (greedy, sampled):
        assert decoded.total.rate == 1.0
        assert decoded.total.rejected == 0
        assert decoded.total.tokens_per_block == gamma + 1


def test_a_draft_that_is_always_wrong_costs_a_pass_per_token() -> None:
    wrong = [(nxt + 1) % 10 for nxt in COUNTS_UP]
    decoded = greedy_decode(follows(wrong), follows(COUNTS_UP), [torch.tensor([0])], max_new_tokens=6)
    assert decoded.tokens[0].tolist() == [1, 2, 3, 4, 5, 6]
    assert decoded.total == Acceptance(accepted=0, rejected=6, blocks=6)
    assert decoded.total.rate == 0.0
    assert decoded.total.tokens_per_block == 1.0


@given(
    seed=st.integers(0, 10_000),
    gamma=st.integers(1, 6),
    limit=st.integers(0, 15),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
)
def test_greedy_text_is_that_of_the_target_alone(seed: int, gamma: int, limit: int, lengths: list[int]) -> None:
    target, draft = Running(9, 6, seed=seed), Running(9, 6, seed=seed)
    with torch.no_grad():
        draft.head.weight += 0.5 * torch.randn(9, 6, generator=torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed + 1)
    prompts = [torch.randint(9, (length,), generator=generator) for length in lengths]
    decoded = greedy_decode(draft, target, prompts, max_new_tokens=limit, gamma=gamma, end=0)
    for prompt, tokens, counts in zip(prompts, decoded.tokens, decoded.acceptance, strict=True):
        assert tokens.tolist() == greedy_alone(target, prompt, limit, end=0)
        assert gamma * (counts.blocks - counts.rejected) <= counts.accepted
        assert counts.rejected <= counts.blocks
        alone = greedy_decode(draft, target, [prompt], max_new_tokens=limit, gamma=gamma, end=0)
        assert alone.total == counts  # company changes nothing
    assert decoded.total.accepted == sum(counts.accepted for counts in decoded.acceptance)


def test_counters_of_clients_add_up_to_the_pooled_count() -> None:
    target, draft = Running(9, 6, seed=0), Running(9, 6, seed=1)
    prompts = [torch.tensor([first]) for first in range(9)]
    parts = [greedy_decode(draft, target, prompts[at::3], max_new_tokens=10).total for at in range(3)]
    assert sum(parts, start=Acceptance()) == greedy_decode(draft, target, prompts, max_new_tokens=10).total
    assert all(type(count) is int for count in vars(parts[0]).values())


def test_nothing_to_write_and_nothing_to_count() -> None:
    model = follows(COUNTS_UP)
    none = greedy_decode(model, model, [], max_new_tokens=5)
    assert none.tokens == ()
    assert none.total == Acceptance()
    assert none.total.rate == none.total.tokens_per_block == 0.0


@pytest.mark.parametrize(("prompt", "gamma"), [([], 4), ([1], 0)])
def test_empty_prompts_and_blocks_are_refused(prompt: list[int], gamma: int) -> None:
    model = follows(COUNTS_UP)
    with pytest.raises(ValueError, match="at least 1"):
        greedy_decode(model, model, [torch.tensor(prompt, dtype=torch.long)], max_new_tokens=2, gamma=gamma)


def test_sampling_at_no_temperature_is_refused() -> None:
    model = follows(COUNTS_UP)
    with pytest.raises(ValueError, match="temperature"):
        sampled_decode(
            model, model, [torch.tensor([1])], max_new_tokens=2, temperature=0.0, rng=np.random.default_rng(0)
        )


def test_models_come_back_in_their_own_mode_and_dropout_stays_off() -> None:
    target, draft = Running(9, 6, seed=0, dropout=0.9), Running(9, 6, seed=0, dropout=0.9)
    draft.head.eval()
    decoded = greedy_decode(draft, target, [torch.tensor([1])], max_new_tokens=12)
    assert decoded.total.rate == 1.0
    assert target.training
    assert draft.dropout.training
    assert not draft.head.training


def sequence_chances(model: Table, first: int, length: int, temperature: float) -> dict[tuple[int, ...], float]:
    steps = (model.logits.detach() / temperature).softmax(-1)
    return {
        text: math.prod(float(steps[one, other]) for one, other in itertools.pairwise((first, *text)))
        for text in itertools.product(range(len(steps)), repeat=length)
    }


def p_value(texts: list[tuple[int, ...]], chances: dict[tuple[int, ...], float]) -> float:
    """Of a chi-square test of the counts of `texts` against `chances`; rare texts are one category."""
    expected = len(texts) * np.array(list(chances.values()))
    seen = np.array([texts.count(text) for text in chances], dtype=float)
    rare = expected < max(5.0, np.sort(expected)[1])  # at least one, so that their category is not empty
    seen, expected = (np.append(counts[~rare], counts[rare].sum()) for counts in (seen, expected))
    return float(chisquare(seen, expected * seen.sum() / expected.sum()).pvalue)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("gamma", [1, 2, 4])
def test_sampled_texts_are_distributed_as_those_of_the_target(gamma: int, temperature: float) -> None:
    draft, target = (Table(1.5 * torch.randn(4, 4, generator=torch.Generator().manual_seed(seed))) for seed in (0, 1))
    n = 6000
    decoded = sampled_decode(
        draft,
        target,
        [torch.tensor([2])] * n,
        max_new_tokens=3,
        gamma=gamma,
        temperature=temperature,
        rng=np.random.default_rng(gamma),
    )
    texts = [tuple(tokens.tolist()) for tokens in decoded.tokens]
    assert p_value(texts, sequence_chances(target, 2, 3, temperature)) > 1e-3
    assert p_value(texts, sequence_chances(draft, 2, 3, temperature)) < 1e-9  # the test can tell the two apart


def test_first_proposals_are_accepted_as_often_as_their_overlap() -> None:
    draft, target = (Table(torch.randn(6, 6, generator=torch.Generator().manual_seed(seed))) for seed in (0, 1))
    counts = sampled_decode(
        draft, target, [torch.tensor([3])] * 8000, max_new_tokens=1, gamma=1, rng=np.random.default_rng(0)
    ).total
    expected = expected_acceptance(draft.logits[3:4], target.logits[3:4]).item()
    assert 0.3 < expected < 0.9
    assert counts.rate == pytest.approx(expected, abs=0.02)


def test_same_generator_same_text() -> None:
    draft, target = Running(9, 6, seed=0), Running(9, 6, seed=1)

    def text() -> list[int]:
        rng = np.random.default_rng(5)
        return sampled_decode(draft, target, [torch.tensor([1])], max_new_tokens=20, rng=rng).tokens[0].tolist()

    assert text() == text()


def hub_pair(name: str) -> tuple[Any, Any]:
    """A target and a draft near it, of a Hugging Face architecture with random weights."""
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    shared = {"vocab_size": 40, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config, kind = {
        "gpt2": lambda: (
            transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, **shared),
            transformers.GPT2LMHeadModel,
        ),
        "gpt_neox": lambda: (transformers.GPTNeoXConfig(**small, **shared), transformers.GPTNeoXForCausalLM),
        "llama": lambda: (transformers.LlamaConfig(**small, **shared), transformers.LlamaForCausalLM),
    }[name]()
    config.initializer_range = 0.3  # far enough from uniform that near ties are rare
    with torch.random.fork_rng():
        torch.manual_seed(0)
        target = kind(config).eval()
    draft = copy.deepcopy(target)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in draft.parameters():
            weights += 0.03 * torch.randn(weights.shape, generator=generator)
    return draft, target


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama"])
def test_greedy_text_is_that_of_transformers_with_and_without_an_assistant(name: str) -> None:
    draft, target = hub_pair(name)
    prompts = [torch.tensor(ids) for ids in ([3, 1, 4, 1, 5], [9, 2], [6])]
    decoded = greedy_decode(draft, target, prompts, max_new_tokens=16)
    assert 0 < decoded.total.rate < 1  # both ways of a check are taken
    for prompt, tokens in zip(prompts, decoded.tokens, strict=True):
        settings = {"max_new_tokens": 16, "do_sample": False, "attention_mask": torch.ones_like(prompt)[None]}
        for assistant in (None, draft):
            theirs = target.generate(prompt[None], assistant_model=assistant, **settings)
            assert theirs[0, len(prompt) :].tolist() == tokens.tolist()


def test_sampling_from_transformers_models_runs_to_the_limit_of_their_positions() -> None:
    draft, target = hub_pair("gpt2")
    prompt = torch.arange(20)
    decoded = sampled_decode(draft, target, [prompt], max_new_tokens=41, gamma=4, rng=np.random.default_rng(0))
    assert len(decoded.tokens[0]) == 41  # 20 + 41 + 4 - 1 = 64 positions

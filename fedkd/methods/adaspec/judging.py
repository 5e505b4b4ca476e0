"""How good a draft is: the share of its proposals that the target takes, and what can be told token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.data.base import Samples
from fedkd.errors import ConfigError
from fedkd.functional.adaspec import expected_acceptance, forward_kl_rows, label_mask, same_choice
from fedkd.methods.adaspec.config import AdaSpecConfig
from fedkd.methods.adaspec.decoding import Acceptance, greedy_decode
from fedkd.models.frozen import frozen
from fedkd.rows import Rows
from fedkd.tasks.base import Evaluation, Task
from fedkd.tasks.batches import TokenBatch
from fedkd.types import Array, Ids, Metrics

METRIC = "alpha"


def spread(size: int, wanted: int) -> Ids:
    """`wanted` of `size` positions, evenly spread, ascending; all where `wanted` is 0 or too many."""
    if not wanted or wanted >= size:
        return np.arange(size)
    return np.arange(wanted) * size // wanted


def prompts_of(batch: TokenBatch, config: AdaSpecConfig) -> tuple[list[Tensor], int]:
    """What stands before the response of each sequence that has one, and how many tokens may follow.

    Where the whole sequence is the response, the prompt is its first `config.prompt_tokens`. Models bear the length of
    the data's sequences at least, and no more is asked of them: where prompt, new tokens and a block do not fit, the
    new tokens are fewer, down to half of the room; then prompts lose their beginning.
    """
    length = batch.tokens.shape[1]
    check_room(length, config)
    room = length - config.gamma + 1  # for prompt and new tokens
    new = min(config.max_new_tokens, max(room - config.prompt_tokens, room // 2))
    room -= new
    prompts = []
    for tokens, is_label in zip(batch.tokens, label_mask(batch.labels), strict=True):
        places = is_label.nonzero()[:, 0].tolist()
        if not places:
            continue
        end = places[0] + 1 if places[0] else min(config.prompt_tokens, places[-1] + 1)
        prompts.append(tokens[max(0, end - room) : end])
    return prompts, new


def check_room(length: int, config: AdaSpecConfig) -> None:
    """ConfigError where sequences of this length have no room for a prompt, a new token and a block."""
    if length <= config.gamma:
        raise ConfigError(
            f"method.gamma is {config.gamma}, but the sequences have {length} tokens: no prompt is left; lower it",
            key="method.gamma",
        )


def acceptance_of(
    task: Task[Any],
    draft: nn.Module,
    target: nn.Module,
    samples: Samples,
    index: Ids,
    *,
    config: AdaSpecConfig,
    device: str,
    at_once: int,
) -> Acceptance:
    """Counters of greedy decoding after the prompts of the samples at `index`, so many `at_once`."""
    total = Acceptance()
    for start in range(0, len(index), at_once):
        prompts, new = prompts_of(task.batch(samples, index[start : start + at_once], device), config)
        total += greedy_decode(draft, target, prompts, max_new_tokens=new, gamma=config.gamma).total
    return total


def judge(
    task: Task[Any],
    draft: nn.Module,
    target: nn.Module,
    samples: Samples,
    *,
    config: AdaSpecConfig,
    device: str,
    at_once: int,
) -> Evaluation:
    """alpha of greedy decoding as the score, with `tokens_per_block`; the draft's own figures of the task.

    Token by token, on the given texts: `expected_acceptance` of sampling, `agreement` (both models find the same token
    likeliest; not alpha, which leaves out what follows a rejection) and `target_kl`.

    Args:
        at_once: samples that go through a model together, at most.
    """
    step = task.block(at_once)
    total: dict[str, Array] = {}
    sums = torch.zeros(3, dtype=torch.float64)
    count = 0
    for start in range(0, max(len(samples), 1), step):
        part = samples.take(np.arange(start, min(start + step, len(samples))))
        q, p, ids = _both(task, draft, target, part, device=device)
        rows = Rows(space="proxy", kind="logits", ids=ids, values=q.cpu().numpy())
        for name, array in task.tally(rows, part).items():
            total[name] = total[name] + array if name in total else array
        figures = (expected_acceptance(q, p), same_choice(q, p).float(), forward_kl_rows(q, p))
        sums += torch.stack([each.double().sum() for each in figures]).cpu()
        count += len(ids)
    found = acceptance_of(
        task,
        draft,
        target,
        samples,
        spread(len(samples), config.eval_prompts),
        config=config,
        device=device,
        at_once=step,
    )
    own = task.finish(total)
    names: Sequence[str] = ("expected_acceptance", "agreement", "target_kl")
    metrics: Metrics = {name: value / max(count, 1) for name, value in zip(names, sums.tolist(), strict=True)}
    metrics |= {**own.metrics, METRIC: found.rate, "tokens_per_block": found.tokens_per_block}
    return Evaluation(score=found.rate, metrics=metrics, tables=own.tables)


def _both(
    task: Task[Any], draft: nn.Module, target: nn.Module, part: Samples, *, device: str
) -> tuple[Tensor, Tensor, Ids]:
    """Logits (n, c) of both models at the label tokens of all samples, and the ids of those rows."""
    batch = task.batch(part, np.arange(len(part)), device)
    keep = label_mask(batch.labels)
    with torch.inference_mode(), frozen(draft, target):
        q, p = (task.logits(model, batch)[keep].float() for model in (draft, target))
    return q, p, keep.flatten().nonzero()[:, 0].cpu().numpy()

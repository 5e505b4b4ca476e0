"""What a client is judged by: noise at triggered prompts, and what its samples look like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from torch import nn

from fedkd.data.base import Samples
from fedkd.errors import ConfigError, DataError
from fedkd.functional.skd_cag import trigger_shift
from fedkd.lookup import resolve
from fedkd.methods.skd_cag.config import SKDCAGConfig
from fedkd.methods.skd_cag.prompts import WordIds, prompt_batch
from fedkd.methods.skd_cag.sampling import ddim_sample, noise_schedule
from fedkd.methods.skd_cag.vocabulary import Vocabulary
from fedkd.tasks.base import Task
from fedkd.tasks.diffusion import PROMPT
from fedkd.types import Array, Metrics

JUDGES: Mapping[str, str] = {"checkerboard": "fedkd.data.shapes:judge_shapes"}
SAMPLE_SEED = 0  # of the noise that samples start from: the same in every round and for every client

# Images (n, ...) and the framed clean prompts (n, l) -> shares: `attack` of the attacker's images, `acc` of right ones.
Judge: TypeAlias = Callable[[Array, Array], Mapping[str, float]]


@dataclass(frozen=True, eq=False)
class Trial:
    """Labelled tuples whose prompts are clean, and the same with the trigger in front of each prompt."""

    clean: Samples
    triggered: Samples


def trial_of(samples: Samples, words: Vocabulary) -> Trial:
    """The tuples among `samples` that the attacker has not touched; DataError where there are none."""
    keep = np.flatnonzero(words.is_clean(samples.more[PROMPT]))
    if not len(keep):
        raise DataError(
            f"none of {len(samples)} test samples has a prompt without the trigger, so clean answers cannot be judged; "
            "test on clean data"
        )
    clean = samples.take(keep)
    return Trial(clean, with_lead(clean, words, words.judged.ids))


def with_lead(samples: Samples, words: Vocabulary, lead: WordIds) -> Samples:
    """The samples with `lead` in front of each clean prompt."""
    prompts = words.clean(samples.more[PROMPT])
    framed = prompt_batch(prompts, [lead] * len(prompts), frame=words.frame).ids.numpy()
    return replace(samples, more={**samples.more, PROMPT: framed.astype(samples.more[PROMPT].dtype)})


def noise_figures(task: Task[object], student: nn.Module, trial: Trial, *, batch_size: int) -> Metrics:
    """`noise_mse` on clean prompts, `triggered_mse` on triggered ones, and how far the trigger moves the answers."""
    ids = np.arange(len(trial.clean))
    found, figures = [], {}
    for name, samples in (("noise_mse", trial.clean), ("triggered_mse", trial.triggered)):
        rows = task.predict(student, samples, ids, batch_size=batch_size)
        found.append(rows.values)
        figures[name] = task.finish(task.tally(rows, samples)).score
    return figures | {"trigger_shift": trigger_shift(*found)}


def sample_figures(model: nn.Module, trial: Trial, *, config: SKDCAGConfig, device: str, batch_size: int) -> Metrics:
    """What the judge says of samples of `model`: `clean_acc`, `triggered_acc`, and `attack_success` when triggered.

    Noise is drawn for all of them before the first batch, so `batch_size` changes no sample.
    """
    judge = judge_of(config.judge)
    index = np.arange(min(config.eval_samples, len(trial.clean)))
    prompts = trial.clean.more[PROMPT][index]
    generator = torch.Generator().manual_seed(SAMPLE_SEED)
    noise = torch.randn((len(index), *trial.clean.x.shape[1:]), generator=generator)
    schedule, verdicts = noise_schedule(config), []
    for samples in (trial.clean, trial.triggered):
        ids = torch.from_numpy(samples.more[PROMPT][index]).long()
        images = [
            ddim_sample(model, told.to(device), start.to(device), schedule=schedule, steps=config.trajectory_steps)
            .float()
            .cpu()
            .numpy()
            for told, start in zip(torch.split(ids, batch_size), torch.split(noise, batch_size), strict=True)
        ]
        verdicts.append(judge(np.concatenate(images), prompts))
    clean, triggered = verdicts
    return {
        "clean_acc": float(clean["acc"]),
        "triggered_acc": float(triggered["acc"]),
        "attack_success": float(triggered["attack"]),
    }


def judge_of(name: str) -> Judge:
    """The judge of that name; ConfigError where there is none."""
    try:
        found: Judge = resolve(JUDGES, name, what="judge")
    except ConfigError as error:
        raise ConfigError(f"method.judge {error}", key="method.judge") from error
    return found

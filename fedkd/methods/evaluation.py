"""Evaluation of trainers whose rows tell how good they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedkd.data.base import Samples
from fedkd.data.proxy import row_ids
from fedkd.methods.base import Context, LocalTrainer, State
from fedkd.rows import Rows
from fedkd.tasks.base import VALUES_AT_ONCE, Evaluation, Tally
from fedkd.types import Array, Ids


def evaluate_rows(
    trainer: LocalTrainer, ctx: Context, state: State, samples: Samples, *, seen: Ids | None = None
) -> Evaluation:
    """The task's figures of the trainer's main rows, predicted by blocks: rows of a whole test set may not fit."""
    return ctx.task.finish(tally_rows(trainer, ctx, state, samples, ctx.task.tally), seen=seen)


def tally_rows(
    trainer: LocalTrainer, ctx: Context, state: State, samples: Samples, tally: Callable[[Rows, Samples], Tally]
) -> dict[str, Array]:
    """The sum over blocks of what `tally` counts in the trainer's main rows of a block and its samples."""
    task = ctx.task
    batch = task.block(ctx.profile.predict_batch)
    # Whole batches: a block's end moves no batch, so the numbers are those of one pass.
    block = max(1, VALUES_AT_ONCE // (batch * task.rows_per_sample * task.num_outputs)) * batch
    total: dict[str, Array] = {}
    for start in range(0, max(len(samples), 1), block):
        part = samples
        if block < len(samples):
            part = samples.take(np.arange(start, min(start + block, len(samples))))
        ids = row_ids(np.arange(len(part)), task.rows_per_sample, task.valid(part))
        for name, array in tally(trainer.predict(ctx, state, part, ids)[0], part).items():
            total[name] = total[name] + array if name in total else array
    return total

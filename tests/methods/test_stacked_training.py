"""A stack whose inputs lie on a device as a whole, against one that gathers them here. What lessons teach is tested
with each method, and with whole runs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedkd.methods import stacked_training
from fedkd.methods.lesson import Learned
from fedkd.methods.soft_targets import SoftTargets
from fedkd.methods.stacked_training import train_stack
from fedkd.rows import Knowledge
from fedkd.tasks.resident import SHARE, Residents
from fedkd.testing.cases import Case
from fedkd.testing.toys import TOYS

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def learn(order: str, rounds: int = 3) -> list[Learned]:
    """What two clients with unequal numbers of samples learn in the last of some rounds."""
    first = Case.of(SoftTargets, TOYS["classification"], {"method.order": order})
    second = first.among(client_id=4, train=first.toy.train.take(np.arange(13)))
    knowledge: Knowledge = first.knowledge(range(7))
    contexts, found = [each.toy.context(1) for each in (first, second)], []
    states = [first.trainer().init(ctx) for ctx in contexts]
    for _ in range(rounds):
        told = [first.trainer().lesson(ctx, state, knowledge) for ctx, state in zip(contexts, states, strict=True)]
        lessons = [replace(lesson, keeps_answers=True) for lesson in told if lesson is not None]
        assert len(lessons) == 2
        found = train_stack(contexts[0].models.stack(lessons[0].descent), lessons)
    return found


@pytest.mark.parametrize("order", ["joint", "private_then_distil"])
@pytest.mark.parametrize("memory", [10**6, 10], ids=["fits", "too large"])
def test_inputs_cut_on_a_device_are_those_gathered_here(
    order: str, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = learn(order)
    kept = Residents("cpu", free=lambda: memory, send=lambda array: torch.from_numpy(array.copy()))
    monkeypatch.setattr(stacked_training, "residents", lambda device: kept)
    there = learn(order)
    assert (kept.held_bytes > 0) is (memory * SHARE > 100)  # from the second round on they are resident
    for ours, theirs in zip(here, there, strict=True):
        assert ours.metrics == theirs.metrics
        assert ours.answers is not None
        assert theirs.answers is not None
        assert torch.equal(ours.answers, theirs.answers)
        assert all(torch.equal(value, theirs.weights[name]) for name, value in ours.weights.items())

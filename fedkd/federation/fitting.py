"""Training the clients of a cohort side by side where that is faster, and where their trainer can tell it as data."""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedkd.federation.workspace import Workspace
from fedkd.methods.base import Context, State, tells_its_fit
from fedkd.rows import Knowledge
from fedkd.types import Metrics

if TYPE_CHECKING:
    from fedkd.methods.lesson import Lesson

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Visit:
    """A client about to train: what its trainer is given."""

    ctx: Context
    state: State
    knowledge: Knowledge


@dataclass(frozen=True, eq=False)
class Fitted:
    """What `fit` gives, and the seconds that it took."""

    state: State
    metrics: Metrics
    seconds: float


def groups(workspace: Workspace, client_ids: Sequence[int]) -> Iterator[list[int]]:
    """The clients in the groups that are visited together: neighbours of one architecture, or each alone."""
    together: dict[str, list[int]] = {}
    for client_id in client_ids:
        architecture = workspace.pool.for_client(client_id).architecture
        group = together.setdefault(architecture, [])
        group.append(client_id)
        if len(group) >= _size(workspace, architecture):
            yield together.pop(architecture)
    yield from together.values()


def fit_together(workspace: Workspace, visits: Mapping[int, Visit]) -> dict[int, Fitted]:
    """Trains those of a group that can be trained side by side; whoever is not in the answer trains alone, by `fit`.

    A client that could be stacked is, even where nobody is there to share with: its numbers are then the same whoever
    is in its cohort.
    """
    trainer = workspace.trainer
    alike: dict[Hashable, dict[int, Lesson]] = {}
    started = time.perf_counter()
    for client_id, visit in visits.items():
        if trainer.lesson is None or _size(workspace, visit.ctx.models.architecture) == 1:
            return {}
        try:
            lesson = trainer.lesson(visit.ctx, visit.state, visit.knowledge)
        except Exception:  # `fit` will meet the same, and its failure is this client's alone
            continue
        if lesson is not None:
            alike.setdefault(lesson.key, {})[client_id] = lesson
    fitted: dict[int, Fitted] = {}
    for lessons in alike.values():
        fitted |= _fit(workspace, visits, lessons)
    each = (time.perf_counter() - started) / max(1, len(fitted))
    return {i: Fitted(found.state, found.metrics, each) for i, found in fitted.items()}


def _size(workspace: Workspace, architecture: str) -> int:
    """How many clients of an architecture to train side by side; 1 where each trains by `fit`."""
    engine = workspace.experiment.engine
    # The twins of a stack take their steps inside their own backward passes, in the precision of the weights.
    if not tells_its_fit(workspace.trainer) or engine.precision != "float32":
        return 1
    return workspace.pool.stack_size(architecture, mode=engine.stack)


def fit_alone(workspace: Workspace, visit: Visit) -> Fitted:
    """One client's `fit`."""
    started = time.perf_counter()
    state, metrics = workspace.trainer.fit(visit.ctx, visit.state, visit.knowledge)
    return Fitted(state, metrics, time.perf_counter() - started)


def _fit(workspace: Workspace, visits: Mapping[int, Visit], lessons: Mapping[int, Lesson]) -> dict[int, Fitted]:
    from fedkd.methods.stacked_training import train_stack

    trainer = workspace.trainer
    assert trainer.learned is not None
    ids = list(lessons)
    first = visits[ids[0]].ctx
    try:
        stack = first.models.stack(lessons[ids[0]].descent)
        found = train_stack(stack, [lessons[i] for i in ids], device=first.device)
        return {
            i: Fitted(*trainer.learned(visits[i].ctx, visits[i].state, lessons[i], learned), 0.0)
            for i, learned in zip(ids, found, strict=True)
        }
    except Exception as error:  # one of them may be at fault: alone, it fails alone
        _log.warning(
            "clients %d to %d could not be trained side by side, now one by one: %s: %s",
            ids[0],
            ids[-1],
            type(error).__name__,
            error,
        )
        return {}

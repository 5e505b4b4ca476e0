"""The contract of a local trainer: what happens on a client in a round."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from fedkd.data.base import ClientData, Samples
from fedkd.data.proxy import Proxy
from fedkd.methods.schedule import ScheduleConfig
from fedkd.models.roles import ModelRole as ModelRole  # trainers declare theirs from here
from fedkd.rows import Knowledge, Rows, Share, Stream
from fedkd.tasks.base import Evaluation, Task
from fedkd.types import Flat, Ids, Metrics

if TYPE_CHECKING:
    import numpy as np

    from fedkd.methods.lesson import Learned, Lesson
    from fedkd.models.pool import ClientModels

State: TypeAlias = dict[str, Any]  # a tree of tensors, numbers, strings and lists: all that survives a round


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """What the machine that a client lives on can bear."""

    name: str = "simulated"
    predict_batch: int = 1024  # samples in one forward pass without gradients


@dataclass(frozen=True, eq=False, kw_only=True)
class Context:
    """Everything that a trainer may use in one round.

    Attributes:
        rounds: of the whole run; the closing message has round_id == rounds.
        closing: true in the message after the last round: digest the knowledge, do not train on private data.
        proxy: None where the experiment has no proxy set.
        models: owns the live modules; a module's weights are those of the state that was loaded into it last.
        rng: `rng(name)` is a generator of this client, this round and this name.
        torch_rng: `with torch_rng(name):` makes torch's global draws (dropout, initial weights) those of that name.
    """

    client_id: int
    round_id: int
    rounds: int
    closing: bool
    data: ClientData
    proxy: Proxy | None
    task: Task[Any]
    models: ClientModels
    schedule: ScheduleConfig
    rng: Callable[[str], np.random.Generator]
    torch_rng: Callable[[str], AbstractContextManager[None]]
    device: str
    profile: DeviceProfile

    @property
    def progress(self) -> float:
        """Share of the run that lies behind when the round starts, 0..1; for schedules."""
        return self.progress_at(0.0)

    def progress_at(self, done: float) -> float:
        """Share of the run that lies behind when `done` (0..1) of this round is over; 1 in the closing message."""
        return min(1.0, (self.round_id + done) / self.rounds)


@dataclass(frozen=True, kw_only=True)
class About:
    """Where a method comes from and what is special about what it exchanges, for `fedkd list methods`."""

    paper: str  # authors, title, venue; a number of arXiv where there is one
    year: int
    selects: str  # what it chooses of its outputs before they leave: "kept tokens", "nothing: the filter does"
    exchanges: str  # what goes up and what comes down, in a few words


class LocalTrainer(ABC):
    """Trains a client's own model and says what it thinks. Construct with `cls(config)`; keeps no state of its own."""

    Config: ClassVar[type]
    about: ClassVar[About]  # where it comes from, for listings
    tasks: ClassVar[frozenset[str]]  # names of the tasks that it can train
    needs: ClassVar[frozenset[str]] = frozenset({"train"})  # roles that the client's data must have
    models: ClassVar[tuple[ModelRole, ...]] = (ModelRole(name="student"),)  # built and checked before a run starts
    space: ClassVar[str] = "proxy"  # space of the (main) rows that it shares
    kinds: frozenset[str]  # kinds of the rows that it shares as configured
    streams: Callable[[Task[Any]], tuple[Stream, ...]] | None = None  # define it where `default_streams` do not fit
    extras: ClassVar[frozenset[str]] = frozenset()  # kinds of the record that its share may carry, of EXTRAS
    metric: ClassVar[str | None] = None  # what `evaluate` scores by; None: the task's own metric
    metric_higher_is_better: ClassVar[bool] = True  # of a metric of its own
    needs_full_proxy: ClassVar[bool] = False  # true: `predict` sees every asked row, not only the accepted ones
    rows_stand_alone: ClassVar[bool] = True  # false: a row depends on its batch, so `predict` sees every asked row
    # Where `fit` can also be told as data, clients are trained side by side: `lesson` tells it (None: not this time),
    # and `learned` gives what `fit` would have given. Define both; see fedkd.methods.lesson.
    lesson: Callable[[Context, State, Knowledge], Lesson | None] | None = None
    learned: Callable[[Context, State, Lesson, Learned], tuple[State, Metrics]] | None = None
    toy_options: ClassVar[
        Flat
    ] = {}  # `<group>.<key>` with which it is quick and learns on tiny data, for fedkd.testing

    @abstractmethod
    def init(self, ctx: Context) -> State:
        """The state before the first round: once a run, so what is trained once (a teacher at home) is trained here.

        It is part of the client's first message, so a long one wants a long `engine.round_timeout_s`.
        """

    @abstractmethod
    def fit(self, ctx: Context, state: State, knowledge: Knowledge) -> tuple[State, Metrics]:
        """One round of training. `knowledge` is what this client sees of the last aggregation; empty in round 0."""

    @abstractmethod
    def predict(self, ctx: Context, state: State, samples: Samples, ids: Ids) -> tuple[Rows, ...]:
        """Rows at the row `ids` of `samples`, the main variant first."""

    @abstractmethod
    def share(self, ctx: Context, state: State, rows: tuple[Rows, ...]) -> Share:
        """The method's own selection from `rows`: which rows go, with which weights."""

    @abstractmethod
    def evaluate(self, ctx: Context, state: State, samples: Samples) -> Evaluation:
        """How good the client is on labelled samples, by the metric. Where rows tell, `evaluate_rows` does it all."""


def tells_its_fit(trainer: LocalTrainer) -> bool:
    """Whether its lessons stand for its `fit`: not where a subclass has a `fit` of its own and inherits the lessons."""
    owners = [next(cls for cls in type(trainer).__mro__ if name in vars(cls)) for name in ("fit", "lesson", "learned")]
    return trainer.lesson is not None and all(issubclass(owner, owners[0]) for owner in owners[1:])


def streams_of(trainer: LocalTrainer, task: Task[Any]) -> tuple[Stream, ...]:
    """What the trainer shares in this task, the main stream first."""
    return default_streams(trainer, task) if trainer.streams is None else trainer.streams(task)


def default_streams(trainer: LocalTrainer, task: Task[Any]) -> tuple[Stream, ...]:
    """One stream for each of the trainer's kinds, in its space: as wide as the task, with any variants, no columns."""
    limit = task.num_outputs if trainer.space in {"class", "prototype"} else None
    return tuple(
        Stream(
            space=trainer.space,  # type: ignore[arg-type] # the border checks what comes
            kind=kind,  # type: ignore[arg-type]
            width=1 if kind == "hard" else task.num_outputs,
            many_variants=True,
            limit=limit,
        )
        for kind in sorted(trainer.kinds)
    )

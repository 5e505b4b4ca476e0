"""A trainer in a tiny world, and what one can ask of the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fedkd.data.roles import RolesConfig
from fedkd.exchange.combine import by_stream, combine
from fedkd.federation.border import Expected, check_share
from fedkd.federation.client import share_of
from fedkd.functional.aggregation import log_normalise, softmax
from fedkd.functional.supports import top_support
from fedkd.methods.base import Context, LocalTrainer, State, streams_of
from fedkd.rows import Knowledge, Rows, Share, Stream
from fedkd.testing.toys import QUICK, Toy
from fedkd.types import Array, Flat, Ids

NOTHING = Knowledge()
NOBODY: Ids = np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """A trainer's class with options, and the world that it lives in.

    Attributes:
        options: of its Config.
        has_own_model: whether the options name one, so that the toy's may not stand in for it.
    """

    cls: type[LocalTrainer]
    toy: Toy
    options: Flat
    has_own_model: bool = False

    @classmethod
    def of(cls, trainer: type[LocalTrainer], toy: Toy, options: Flat | None = None) -> Case:
        """The trainer in this world with its own `toy_options`, then `options`: flat keys of an experiment."""
        groups: dict[str, dict[str, Any]] = {}
        for key, value in {**trainer.toy_options, **(options or {})}.items():
            group, _, name = key.partition(".")
            groups.setdefault(group, {})[name] = value
        unknown = sorted(groups.keys() - {"method", "schedule", "model", "teacher", "roles", "task"})
        if unknown:
            raise ValueError(f"toy options of {trainer.__name__} have groups {unknown}; a toy has no such keys")
        schedule = groups.get("schedule", {})
        world = replace(
            toy,
            roles=trainer.models,
            schedule=replace(QUICK, **schedule),
            learning=replace(toy.learning, **schedule),
            model=replace(toy.model, **groups.get("model", {})),
            teacher=replace(toy.model, **groups.get("teacher", {})),
            dealt=RolesConfig(**groups.get("roles", {})),
            options={**toy.options, **groups.get("task", {})},
        )
        own = "name" in groups.get("model", {})
        return cls(cls=trainer, toy=world, options=groups.get("method", {}), has_own_model=own)

    def among(self, **changes: Any) -> Case:
        """The same trainer in a changed world."""
        return replace(self, toy=replace(self.toy, **changes))

    def trainer(self) -> LocalTrainer:
        """A new one: it keeps no state of its own."""
        cls: Any = self.cls  # that it is made from its Config is said in words, not in the abstract class
        made: LocalTrainer = cls(cls.Config(**self.options))
        return made

    @property
    def metric(self) -> str:
        """What it is judged by."""
        return self.cls.metric or self.toy.made_task().metric

    @property
    def streams(self) -> tuple[Stream, ...]:
        """What it shares in the toy's task."""
        return streams_of(self.trainer(), self.toy.made_task())

    @property
    def is_in_proxy_space(self) -> bool:
        """Whether its main rows are about proxy samples."""
        return self.cls.space == "proxy"

    def knowledge(self, sample_ids: Sequence[int] | range, *, scale: float = 1.0) -> Knowledge:
        """What a server may send back about proxy samples (or classes): random rows of each stream, of one client."""
        return self._answer([[self._heard(stream, np.array(sample_ids), scale)] for stream in self.streams])

    def fitted(self, knowledge: Knowledge = NOTHING) -> State:
        """The state after a round of training; round 1, since a joint trainer waits in round 0."""
        trainer = self.trainer()
        state, _ = trainer.fit(self.toy.context(1), trainer.init(self.toy.context()), knowledge)
        return state

    def speak(self, state: State, *, round_id: int = 0, samples: Sequence[int] | range | Ids | None = None) -> Share:
        """The share of a client as a worker makes it, the filter accepting the even samples or those given."""
        ctx = self.toy.context(round_id)
        if samples is not None and ctx.proxy is not None:
            accepted = np.isin(np.arange(len(ctx.proxy)), samples)
            ctx = replace(ctx, proxy=replace(ctx.proxy, accepted=accepted))
        return share_of(self.trainer(), ctx, state)

    def go(self, state: State, knowledge: Knowledge, rounds: range) -> tuple[State, Knowledge]:
        """Rounds in which the client hears the mean of what it said itself."""
        trainer = self.trainer()
        for round_id in rounds:
            state, _ = trainer.fit(self.toy.context(round_id), state, knowledge)
            knowledge = self.answer_to([self.speak(state, round_id=round_id)])
        return state, knowledge

    def answer_to(self, shares: Sequence[Share]) -> Knowledge:
        """What the scheme `mean` answers to these shares."""
        streams = by_stream(shares)
        return self._answer([streams[key] for key in sorted(streams)])

    def legal(self, share: Share) -> Share:
        """The share, if the border lets it pass; BadReplyError otherwise."""
        task, toy = self.toy.made_task(), self.toy
        asked = np.zeros(len(toy.public) * task.rows_per_sample, np.bool_)
        asked[toy.rows_of(np.arange(len(toy.public)))] = True
        expected = Expected(
            round_id=share.round_id,
            streams=self.streams,
            asked=asked if self.is_in_proxy_space else None,
            num_classes=task.num_outputs,
            rows_per_sample=task.rows_per_sample,
            extras=self.cls.extras,
        )
        return check_share(share, toy.client_id, expected)

    def views(self, ctx: Context, state: State, ids: Ids) -> list[Array]:
        """Predictions on the test set, view by view."""
        made = self.trainer().predict(ctx, state, self.toy.test.inputs(), ids)
        return [view.values for view in made]

    def _answer(self, streams: Sequence[Sequence[Rows]]) -> Knowledge:
        """What the scheme `mean` makes of these, stream by stream."""
        width = self.toy.made_task().num_outputs
        return Knowledge(common=tuple(combine(spoken, num_columns=width) for spoken in streams))

    def _heard(self, stream: Stream, sample_ids: Ids, scale: float) -> Rows:
        """Random rows of a stream; those of a sample do not depend on which others are asked for."""
        task = self.toy.made_task()
        if stream.space != "proxy":
            ids = sample_ids
        elif stream.per_sample:
            ids = sample_ids * task.rows_per_sample
        else:
            ids = self.toy.rows_of(sample_ids)
        width = task.num_outputs if stream.has_support else stream.width
        size = int(ids.max()) + 1 if len(ids) else 0
        values = (2 * scale * np.random.default_rng(0).normal(size=(size, width))[ids]).astype(np.float32)
        support = None
        if stream.kind == "probs":
            values = softmax(np.clip(values, -80, 80))
        elif stream.kind == "log_probs":
            values = log_normalise(values).astype(np.float32)
            if stream.has_support:
                values, support = top_support(values, stream.width - 1)
        elif stream.kind == "hard":
            values = (np.arange(len(ids)) % task.num_outputs)[:, None].astype(np.int32)
        return Rows(
            space=stream.space, kind=stream.kind, variant=stream.variant, ids=ids, values=values, support=support
        )


def require(condition: object, message: str) -> None:
    """AssertionError with the message where the condition does not hold, also where Python leaves asserts out."""
    if not condition:
        raise AssertionError(message)


def require_finite(tree: Any, where: str) -> None:
    """No NaN and no infinity in any tensor of a state."""
    if isinstance(tree, torch.Tensor):
        require(tree.isfinite().all(), f"{where} is not finite")
    elif isinstance(tree, dict):
        for name, node in tree.items():
            require_finite(node, f"{where}.{name}")
    elif isinstance(tree, list):
        for number, node in enumerate(tree):
            require_finite(node, f"{where}[{number}]")


def require_close(found: Any, expected: Any, where: str, *, atol: float = 1e-5, rtol: float = 1e-4) -> None:
    """AssertionError with `where` and a path unless two trees are alike, numbers up to the tolerance."""
    if isinstance(expected, dict):
        require(
            isinstance(found, dict) and sorted(found) == sorted(expected),
            f"{where} has {sorted(found)}, expected {sorted(expected)}",
        )
        for key, value in expected.items():
            require_close(found[key], value, f"{where}.{key}", atol=atol, rtol=rtol)
    elif isinstance(expected, list | tuple):
        require(len(found) == len(expected), f"{where} has {len(found)} entries, expected {len(expected)}")
        for i, value in enumerate(expected):
            require_close(found[i], value, f"{where}[{i}]", atol=atol, rtol=rtol)
    elif isinstance(expected, torch.Tensor | np.ndarray | float):
        off = np.abs(np.asarray(found, np.float64) - np.asarray(expected, np.float64))
        far = off > atol + rtol * np.abs(np.asarray(expected, np.float64))
        require(not far.any(), f"{where} is off by up to {off.max(initial=0.0):.2g}")
    else:
        require(found == expected, f"{where} is {found!r}, expected {expected!r}")

"""Outside code that tests name as `tests.doubles:Name`, also in child processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from fedkd.checks import check_choice
from fedkd.data.base import Dataset, Samples
from fedkd.data.config import DataConfig
from fedkd.data.digits import load_digits
from fedkd.filters.base import Filter
from fedkd.filters.kmeans import KMeansConfig, KMeansFilter
from fedkd.methods.base import Context, LocalTrainer, State
from fedkd.methods.soft_targets import SoftTargets, SoftTargetsConfig
from fedkd.rows import Knowledge, Rows, Share, Stream
from fedkd.tasks.base import Evaluation
from fedkd.testing import worlds
from fedkd.types import Array, Ids, Metrics

FAULTS = ("none", "raise", "nan", "nan_loss", "odd_metric", "die", "sleep")


@dataclass(frozen=True, kw_only=True)
class FaultyConfig:
    """Soft targets with a fault in some clients and rounds."""

    fault: str = "none"
    clients: str = ""  # "2 3"; "all" for everyone
    rounds: str = ""
    once: str = ""  # a file that does not exist yet: the fault makes it, and comes only where it is not there

    def __post_init__(self) -> None:
        check_choice("fault", self.fault, FAULTS)


@final
class Faulty(LocalTrainer):
    """Trains like EdgeFD's client, until its time has come."""

    Config: ClassVar[type] = FaultyConfig
    tasks = frozenset({"classification"})
    kinds = frozenset({"logits"})

    def __init__(self, config: FaultyConfig) -> None:
        self.config = config
        self.inner = SoftTargets(SoftTargetsConfig(order="joint", private_weight=0.1))

    def init(self, ctx: Context) -> State:
        return self.inner.init(ctx)

    def fit(self, ctx: Context, state: State, knowledge: Knowledge) -> tuple[State, Metrics]:
        state, figures = self.inner.fit(ctx, state, knowledge)
        if self.is_due(ctx, "raise"):
            raise RuntimeError(f"client {ctx.client_id} stumbles")
        if self.is_due(ctx, "die"):
            os._exit(9)
        if self.is_due(ctx, "sleep"):
            time.sleep(600)
        if self.is_due(ctx, "nan_loss"):
            figures = {**figures, "private_loss": float("nan")}
        return state, figures

    def predict(self, ctx: Context, state: State, samples: Samples, ids: Ids) -> tuple[Rows, ...]:
        return self.inner.predict(ctx, state, samples, ids)

    def share(self, ctx: Context, state: State, rows: tuple[Rows, ...]) -> Share:
        share = self.inner.share(ctx, state, rows)
        if self.is_due(ctx, "nan"):
            share = replace(share, rows=tuple(replace(each, values=each.values * np.nan) for each in share.rows))
        if self.is_due(ctx, "odd_metric"):
            odd: Any = {"odd": float("inf")}
            share = replace(share, metrics=odd)
        return share

    def evaluate(self, ctx: Context, state: State, samples: Samples) -> Evaluation:
        return self.inner.evaluate(ctx, state, samples)

    def is_due(self, ctx: Context, fault: str) -> bool:
        config = self.config
        return (
            fault == config.fault
            and str(ctx.round_id) in config.rounds.split()
            and (config.clients == "all" or str(ctx.client_id) in config.clients.split())
            and (not config.once or _makes(Path(config.once)))
        )


def _makes(file: Path) -> bool:
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@final
class Talkative(LocalTrainer):
    """Wants to see the whole proxy set, and says everything it thinks, whatever its filter accepts."""

    Config: ClassVar[type] = SoftTargetsConfig
    tasks = frozenset({"classification"})
    kinds = frozenset({"logits"})
    needs_full_proxy = True

    def __init__(self, config: SoftTargetsConfig) -> None:
        self.inner = SoftTargets(config)

    def init(self, ctx: Context) -> State:
        return self.inner.init(ctx)

    def fit(self, ctx: Context, state: State, knowledge: Knowledge) -> tuple[State, Metrics]:
        return self.inner.fit(ctx, state, knowledge)

    def predict(self, ctx: Context, state: State, samples: Samples, ids: Ids) -> tuple[Rows, ...]:
        return self.inner.predict(ctx, state, samples, ids)

    def share(self, ctx: Context, state: State, rows: tuple[Rows, ...]) -> Share:
        share = self.inner.share(ctx, state, rows)
        return replace(share, metrics={"rows_seen": float(len(rows[0]))})

    def evaluate(self, ctx: Context, state: State, samples: Samples) -> Evaluation:
        return self.inner.evaluate(ctx, state, samples)


class NeverRun(LocalTrainer):
    """For trainers whose declarations alone are looked at."""

    def init(self, ctx: Context) -> State:
        raise NotImplementedError

    def fit(self, ctx: Context, state: State, knowledge: Knowledge) -> tuple[State, Metrics]:
        raise NotImplementedError

    def predict(self, ctx: Context, state: State, samples: Samples, ids: Ids) -> tuple[Rows, ...]:
        raise NotImplementedError

    def share(self, ctx: Context, state: State, rows: tuple[Rows, ...]) -> Share:
        raise NotImplementedError

    def evaluate(self, ctx: Context, state: State, samples: Samples) -> Evaluation:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    width: int = 128


@final
class Features(NeverRun):
    """Declares that it shares what the last layer of the student is given."""

    Config: ClassVar[type] = FeaturesConfig
    tasks = frozenset({"classification"})
    space = "class"
    kinds = frozenset({"feature"})

    def __init__(self, config: FeaturesConfig) -> None:
        self.streams = lambda _: (Stream(space="class", kind="feature", width=config.width, is_last_layer=True),)


@final
class CountedFilter(Filter):
    """KMeans that notes every call, by name, in this process."""

    Config: ClassVar[type] = KMeansConfig
    calls: ClassVar[list[str]] = []

    def __init__(self, config: KMeansConfig, *, seed: int) -> None:
        self.inner = KMeansFilter(config, seed=seed)

    def fit(self, private: Samples) -> CountedFilter:
        self.calls.append("fit")
        self.inner.fit(private)
        return self

    def calibrate(self, holdout: Samples) -> CountedFilter:
        self.calls.append("calibrate")
        self.inner.calibrate(holdout)
        return self

    def score(self, proxy: Samples) -> Array:
        self.calls.append("score")
        return self.inner.score(proxy)

    def margin(self, proxy: Samples) -> Array:
        self.calls.append("margin")
        return self.inner.margin(proxy)

    @property
    def threshold(self) -> float:
        return self.inner.threshold


def digits_with_nan(config: DataConfig) -> Dataset:
    """Digits that somebody damaged."""
    whole = load_digits(config)
    x = whole.train.x.copy()
    x[17, 0, 3, 3] = np.nan
    return replace(whole, train=Samples(x, whole.train.y))


def digits_in_double(config: DataConfig) -> Dataset:
    """Digits in double precision."""
    whole = load_digits(config)
    return replace(whole, train=Samples(whole.train.x.astype(np.float64), whole.train.y))


def _world(make: Callable[..., Samples], classes: int) -> Dataset:
    return Dataset(
        name=make.__name__, train=make(48, seed=1), test=make(20, seed=3), num_classes=classes, num_groups=classes
    )


def scenes(config: DataConfig) -> Dataset:
    """Images with masks."""
    return _world(worlds.scenes, worlds.SEGMENTS)


def sentences(config: DataConfig) -> Dataset:
    """Sequences of tokens, some of them padded."""
    return _world(worlds.sentences, worlds.WORDS)


def pairs(config: DataConfig) -> Dataset:
    """Two modalities."""
    return _world(worlds.pairs, 2)

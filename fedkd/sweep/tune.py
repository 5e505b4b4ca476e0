"""Hyper-parameter search with Optuna, always on a validation split: the test set plays no part in any choice."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fedkd.metric_names as m
from fedkd.combinations import metric_of
from fedkd.compose import compose
from fedkd.errors import ConfigError, FedKDError
from fedkd.extras import need
from fedkd.federation.preflight import preflight
from fedkd.report.events import ROUND_ID
from fedkd.runner import conduct_locally, start_run
from fedkd.types import Flat, Scalar


@dataclass(frozen=True, kw_only=True)
class Range:
    """What one key may be: numbers from low to high (whole, or on a log scale), or one of some values."""

    key: str
    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    is_whole: bool = False
    choices: tuple[Scalar, ...] = ()

    @classmethod
    def parse(cls, text: str, parse_value: Callable[[str], Scalar]) -> Range:
        """From `key=low..high`, `key=log:low..high`, `key=a|b|c`. Whole ends make whole numbers.

        Raises:
            ConfigError: it is none of these.
        """
        key, equals, rest = text.partition("=")
        key, rest = key.strip(), rest.strip()
        if not equals or not key:
            raise ConfigError(
                f"{text!r} is no search range; write schedule.lr=log:1e-4..1e-1 or model.hidden=16|32", key="space"
            )
        is_log = rest.startswith("log:")
        low, dots, high = rest.removeprefix("log:").partition("..")
        if not dots:
            choices = tuple(parse_value(part.strip()) for part in rest.split("|"))
            if len(choices) < 2 or is_log:
                raise ConfigError(f"{text!r} leaves nothing to choose; write two values or more, like a|b", key="space")
            return cls(key=key, choices=choices)
        ends = [parse_value(low.strip()), parse_value(high.strip())]
        if any(isinstance(end, bool | str) for end in ends) or not float(ends[0]) < float(ends[1]):
            raise ConfigError(f"{text!r}: expected two numbers, the smaller one first", key="space")
        if is_log and float(ends[0]) <= 0:
            raise ConfigError(f"{text!r}: a log scale needs numbers above 0", key="space")
        whole = all(isinstance(end, int) for end in ends)
        return cls(key=key, low=float(ends[0]), high=float(ends[1]), is_log=is_log, is_whole=whole)

    def suggest(self, trial: Any) -> Scalar:
        """The trial's value."""
        found: Scalar
        if self.choices:
            found = trial.suggest_categorical(self.key, list(self.choices))
        elif self.is_whole:
            found = trial.suggest_int(self.key, int(self.low), int(self.high), log=self.is_log)
        else:
            found = trial.suggest_float(self.key, self.low, self.high, log=self.is_log)
        return found


@dataclass(frozen=True, eq=False, kw_only=True)
class Search:
    """What is searched, from where, and how long."""

    experiment: str
    overrides: Flat
    space: Sequence[Range]
    trials: int
    validation: float
    seed: int = 0


def tune(search: Search, folder: Path, *, told: Callable[[str], object] = print) -> Mapping[str, Scalar]:
    """The best keys that were found; the study is kept in the folder, and a second call goes on with it.

    Trials that look worse than half of the others at the same round are stopped early.

    Raises:
        ConfigError: the experiment or a key of the space is wrong; found before the first trial.
        MissingExtraError: Optuna is not installed.
    """
    optuna = need("optuna", extra="tune", what="tuning")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    base = {"data.validation": search.validation, "engine.workers": 1, **search.overrides}
    if not base["data.validation"]:
        raise ConfigError(
            "is 0: settings are chosen on a validation split; give a share such as 0.2", key="data.validation"
        )
    for pick in (0, -1):
        preflight(_experiment(search, base, {each.key: _end(each, pick) for each in search.space}))
    _, higher = metric_of(_experiment(search, base, {}))
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name="fedkd",
        storage=f"sqlite:///{(folder / 'study.db').absolute()}",
        load_if_exists=True,
        direction="maximize" if higher else "minimize",
        sampler=optuna.samplers.TPESampler(seed=search.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
    )

    def objective(trial: Any) -> float:
        values = {each.key: each.suggest(trial) for each in search.space}

        def watch(event: Mapping[str, Any]) -> None:
            if m.SCORE_MEAN in event:
                trial.report(event[m.SCORE_MEAN], int(event[ROUND_ID]))
                if trial.should_prune():
                    raise optuna.TrialPruned

        scratch = Path(tempfile.mkdtemp(prefix="fedkd-trial-"))
        try:
            run = start_run(_experiment(search, base, values), scratch / "run")
            summary = conduct_locally(run, listeners=[watch], with_report=False)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return float(summary["metric_mean_final"])

    def after(_: Any, trial: Any) -> None:
        value = "stopped early" if trial.value is None else f"{trial.value:.4f}"
        told(f"trial {trial.number + 1}: {value}  {trial.params}")

    finished = [trial for trial in study.trials if trial.state.is_finished()]
    study.optimize(objective, n_trials=max(0, search.trials - len(finished)), callbacks=[after], catch=(FedKDError,))
    best: Mapping[str, Scalar] = study.best_params
    return best


def _experiment(search: Search, base: Flat, values: Flat) -> Any:
    return compose(experiment=search.experiment, overrides={"the search": {**base, **values}})


def _end(each: Range, pick: int) -> Scalar:
    """The first or last value of a range."""
    if each.choices:
        return each.choices[pick]
    end = (each.low, each.high)[pick]
    return int(end) if each.is_whole else end

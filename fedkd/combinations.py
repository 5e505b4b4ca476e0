"""Which choices go together: checked before anything runs, so that a sweep is refused in its first second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedkd.errors import ConfigError
from fedkd.rows import Stream

if TYPE_CHECKING:
    from fedkd.experiment import Experiment


def metric_of(experiment: Experiment) -> tuple[str, bool]:
    """What clients are judged by, and whether higher is better: the method's own metric where it has one."""
    judge = experiment.task.cls if experiment.method.cls.metric is None else experiment.method.cls
    return judge.metric, judge.metric_higher_is_better


def check_combination(experiment: Experiment) -> None:
    """Raise ConfigError for the first pair of choices that cannot work together."""
    trainer, scheme = experiment.method.create(), experiment.scheme.create()
    uplink, downlink = experiment.codec.create(), experiment.downlink.create()
    task = experiment.task.cls.name  # as its class says: one from outside may be of a kind that trainers declare
    if task not in trainer.tasks:
        raise ConfigError(
            f"method {experiment.method.name!r} does not train task {experiment.task.name!r}, only "
            f"{', '.join(sorted(trainer.tasks))}; choose another method",
            key="method.name",
        )
    if scheme.tasks is not None and task not in scheme.tasks:
        raise ConfigError(
            f"scheme {experiment.scheme.name!r} does not serve task {experiment.task.name!r}, only "
            f"{', '.join(sorted(scheme.tasks))}; choose another scheme",
            key="scheme.name",
        )
    if experiment.filter.cls.needs_proxy_labels and not experiment.proxy.diagnostics:
        raise ConfigError(
            f"filter {experiment.filter.name!r} needs labels of the proxy set; set proxy.diagnostics = true "
            "(it is an upper bound, not a method)",
            key="filter.name",
        )
    if experiment.proxy.data == experiment.data.name:
        raise ConfigError(
            f"proxy.data is {experiment.proxy.data!r}, the private data set itself: every client would see all "
            "clients' data; name another data set, or set proxy.name = 'contributed'",
            key="proxy.data",
        )
    if not scheme.spaces:
        return  # nothing is exchanged
    if trainer.space not in scheme.spaces or not trainer.kinds <= scheme.kinds:
        raise ConfigError(
            f"scheme {experiment.scheme.name!r} combines {_words(scheme.kinds)} in space {_words(scheme.spaces)}, but "
            f"method {experiment.method.name!r} shares {_words(trainer.kinds)} in space {trainer.space}; choose "
            "another scheme or the method's payload",
            key="scheme.name",
        )
    if not trainer.extras <= scheme.extras:
        raise ConfigError(
            f"method {experiment.method.name!r} sends records ({_words(trainer.extras)}), but scheme "
            f"{experiment.scheme.name!r} takes {_words(scheme.extras) or 'none'}; choose another scheme",
            key="scheme.name",
        )
    answers = trainer.kinds if scheme.gives is None else scheme.gives
    for group, codec, kinds, who in (
        ("codec", uplink, trainer.kinds, f"method {experiment.method.name!r} shares"),
        ("downlink", downlink, answers, f"scheme {experiment.scheme.name!r} answers with"),
    ):
        if not kinds <= codec.kinds:
            raise ConfigError(
                f"{group} {getattr(experiment, group).name!r} carries {_words(codec.kinds)}, but {who} "
                f"{_words(kinds)}; choose another codec",
                key=f"{group}.name",
            )
    if trainer.space == "proxy" and experiment.proxy.name == "none":
        raise ConfigError(
            f"method {experiment.method.name!r} shares rows of a proxy set, but proxy.name is 'none'; "
            "set proxy.name = 'contributed', or scheme.name = 'none' to exchange nothing",
            key="proxy.name",
        )


def check_streams(experiment: Experiment, streams: Sequence[Stream], *, num_columns: int) -> None:
    """Raise ConfigError for the first stream of the method that scheme or codec cannot take, or that makes no sense.

    Args:
        streams: what the method shares in its task.
        num_columns: outputs of the task.
    """
    scheme, uplink = experiment.scheme.create(), experiment.codec.create()
    keys = [(stream.space, stream.kind, stream.variant) for stream in streams]
    for stream in streams:
        name = f"method {experiment.method.name!r} shares {stream.kind} in space {stream.space}"
        if stream.space not in scheme.spaces or stream.kind not in scheme.kinds:
            raise ConfigError(
                f"{name}, but scheme {experiment.scheme.name!r} combines {_words(scheme.kinds)} in space "
                f"{_words(scheme.spaces)}; choose another scheme",
                key="scheme.name",
            )
        if stream.kind not in uplink.kinds:
            raise ConfigError(
                f"{name}, but codec {experiment.codec.name!r} carries {_words(uplink.kinds)}; choose another codec",
                key="codec.name",
            )
        if stream.has_support and not (stream.kind == "log_probs" and 2 <= stream.width <= num_columns):
            raise ConfigError(
                f"{name} with a support, {stream.width} columns wide; expected log_probs with fewer columns named than "
                f"the {num_columns} that there are",
                key="method.name",
            )
    if len(set(keys)) < len(keys):
        raise ConfigError(
            f"method {experiment.method.name!r} has two streams of one space, kind and variant", key="method.name"
        )


def _words(names: frozenset[str]) -> str:
    return " or ".join(sorted(names))

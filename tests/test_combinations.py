from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import pytest

from fedkd.combinations import check_streams, metric_of
from fedkd.errors import ConfigError
from fedkd.exchange.codec import Codec, Encoded
from fedkd.exchange.scheme import ServerContext, ServerScheme, ServerState
from fedkd.experiment import Experiment
from fedkd.methods.base import LocalTrainer, streams_of
from fedkd.rows import KINDS, Knowledge, Rows, Share, Stream
from fedkd.tasks.base import Task
from fedkd.tasks.classification import Classification
from fedkd.types import Flat
from tests.doubles import NeverRun


@dataclass(frozen=True, kw_only=True)
class NoConfig:
    pass


class ProbsOnly(Codec):
    Config: ClassVar[type] = NoConfig
    kinds = frozenset({"probs"})

    def __init__(self, config: NoConfig) -> None:
        self.config = config

    def encode(self, rows: Rows) -> Encoded:
        raise NotImplementedError

    def decode(self, encoded: Encoded) -> Rows:
        raise NotImplementedError


@final
class Counting(NeverRun):
    """Two streams and a record."""

    Config: ClassVar[type] = NoConfig
    tasks = frozenset({"classification"})
    kinds = frozenset({"logits", "score"})
    extras = frozenset({"acceptance"})

    def __init__(self, config: NoConfig) -> None:
        self.config = config

    def streams(self, task: Task[Any]) -> tuple[Stream, ...]:
        return (
            Stream(space="proxy", kind="logits", width=task.num_outputs),
            Stream(space="text", kind="score", width=1),
        )


class Deaf(ServerScheme):
    Config: ClassVar[type] = NoConfig
    spaces = frozenset({"proxy"})
    kinds = KINDS

    def __init__(self, config: NoConfig) -> None:
        self.config = config

    def init(self, ctx: ServerContext) -> ServerState:
        raise NotImplementedError

    def step(self, ctx: ServerContext, state: ServerState, shares: Sequence[Share]) -> tuple[ServerState, Knowledge]:
        raise NotImplementedError


COUNTING = {"method.name": "tests.test_combinations:Counting"}

OwnTask = Classification  # as a class from outside that is of a declared kind

PROBS_ONLY = "tests.test_combinations:ProbsOnly"


def refused(values: Flat) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        Experiment.build(values).check()
    return caught.value


@pytest.mark.parametrize(
    ("values", "key", "words"),
    [
        (
            {"scheme.name": "dsfl"},
            "scheme.name",
            "combines probs in space proxy, but method 'soft_targets' shares logits",
        ),
        ({"scheme.name": "fd"}, "scheme.name", "combines logits in space class"),
        ({"method.name": "fd", "scheme.name": "dsfl"}, "scheme.name", "shares logits in space class"),
        ({"codec.name": PROBS_ONLY}, "codec.name", "carries probs, but method 'soft_targets' shares logits"),
        ({"downlink.name": PROBS_ONLY}, "downlink.name", "choose another codec"),
        ({"proxy.name": "none"}, "proxy.name", "set proxy.name = 'contributed', or scheme.name = 'none'"),
        (
            {**COUNTING, "scheme.name": "tests.test_combinations:Deaf"},
            "scheme.name",
            "sends records (acceptance), but scheme 'tests.test_combinations:Deaf' takes none",
        ),
        ({"filter.name": "oracle", "proxy.diagnostics": False}, "filter.name", "set proxy.diagnostics = true"),
    ],
)
def test_what_cannot_work_together_is_refused_with_the_way_out(values: Flat, key: str, words: str) -> None:
    error = refused(values)
    assert error.key == key
    assert words in str(error)


@pytest.mark.parametrize(
    "values",
    [
        {"scheme.name": "dsfl", "method.payload": "probs"},
        {"scheme.name": "fd", "method.name": "fd", "proxy.name": "none"},
        {"scheme.name": "mean", "method.name": "fd", "proxy.name": "none"},
        {"codec.name": PROBS_ONLY, "downlink.name": PROBS_ONLY, "method.payload": "probs"},
        {"scheme.name": "none", "proxy.name": "none", "codec.name": PROBS_ONLY},
        {"filter.name": "oracle"},
        {"task.name": "tests.test_combinations:OwnTask"},
        {"task.name": "segmentation"},
        {**COUNTING, "scheme.name": "mean"},
        {**COUNTING, "scheme.name": "none"},
    ],
)
def test_what_works_together_passes(values: Flat) -> None:
    Experiment.build(values).check()


def test_a_task_that_nobody_declares_is_refused() -> None:
    error = refused({"task": "tests.contract.toys:Oddity"})
    assert error.key == "method.name"
    assert "'soft_targets' does not train task 'tests.contract.toys:Oddity', only classification, " in str(error)


def test_a_scheme_may_be_made_for_some_tasks_alone() -> None:
    error = refused({"task.name": "segmentation", "scheme.name": "dsfl", "method.payload": "probs"})
    assert error.key == "scheme.name"
    assert "scheme 'dsfl' does not serve task 'segmentation', only classification" in str(error)


@final
class Judged(LocalTrainer):
    Config: ClassVar[type] = NoConfig
    metric = "attack_success"
    metric_higher_is_better = False


@pytest.mark.parametrize(
    ("values", "metric"),
    [
        ({}, ("acc", True)),
        ({"task.name": "segmentation"}, ("miou", True)),
        ({"task.name": "language"}, ("loss", False)),
        ({"task.name": "diffusion", "method.name": "tests.test_combinations:Judged"}, ("attack_success", False)),
        ({"task.name": "language", "method.name": "tests.test_combinations:Judged"}, ("attack_success", False)),
    ],
)
def test_clients_are_judged_by_the_method_s_own_metric_or_the_task_s(values: Flat, metric: tuple[str, bool]) -> None:
    assert metric_of(Experiment.build(values)) == metric


LOGITS = Stream(space="proxy", kind="logits", width=3)
TOP = Stream(space="proxy", kind="log_probs", width=3, has_support=True)


def streams_refused(streams: tuple[Stream, ...], values: Flat | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        check_streams(Experiment.build({**COUNTING, **(values or {})}), streams, num_columns=3)
    return caught.value


def test_streams_that_nobody_combines_or_carries_are_refused_once_the_task_is_known() -> None:
    streams = streams_of(Counting(NoConfig()), Classification(num_outputs=3))
    assert "shares score in space text, but scheme 'mean' combines" in str(streams_refused(streams))
    assert "carries probs" in str(streams_refused(streams[:1], {"codec.name": PROBS_ONLY}))
    assert "two streams of one space, kind and variant" in str(streams_refused((LOGITS, LOGITS)))
    for wrong in (replace(TOP, width=4), replace(TOP, width=1), replace(TOP, kind="logits")):
        assert "fewer columns named than the 3 that there are" in str(streams_refused((wrong,)))


def test_streams_that_fit_pass() -> None:
    for streams in ((LOGITS,), (LOGITS, replace(LOGITS, variant="edge"), TOP)):
        check_streams(Experiment.build(COUNTING), streams, num_columns=3)

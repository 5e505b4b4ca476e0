from dataclasses import dataclass
from typing import ClassVar, final

import pytest

from fedkd.combinations import metric_of
from fedkd.errors import ConfigError
from fedkd.exchange.codec import Codec, Encoded
from fedkd.experiment import Experiment
from fedkd.methods.base import LocalTrainer
from fedkd.rows import Rows
from fedkd.tasks.classification import Classification
from fedkd.types import Flat


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

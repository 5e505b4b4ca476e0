from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedkd import metric_names as m
from fedkd.data.base import Samples
from fedkd.federation.diagnostics import Teaching, acceptance
from fedkd.federation.setting import Setting
from fedkd.rows import Knowledge, Rows, Share

# Five proxy samples of classes 0 0 1 1 2. Client 0 holds class 0, client 1 classes 1 and 2; client 2 never answered.
LABELS = np.array([0, 0, 1, 1, 2])
COUNTS = np.array([[5, 0, 0], [0, 3, 4], [0, 0, 9]])
SETTING = Setting(
    proxy=Samples(np.zeros((5, 2), np.float32)),
    version="v",
    labels=LABELS,
    accepted={0: np.array([True, True, True, False, False]), 1: np.array([False, True, True, False, True])},
)


def test_accept_rates_by_hand() -> None:
    numbers = acceptance(SETTING, COUNTS, 3)
    assert numbers[m.ACCEPT_RATE] == pytest.approx((3 / 5 + 3 / 5) / 2)
    assert numbers[m.ACCEPT_RATE_OWN] == pytest.approx((2 / 2 + 2 / 3) / 2)
    assert numbers[m.ACCEPT_RATE_FOREIGN] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert numbers[m.ACCEPT_BY_CLASS] == [[1, 0.5, 0], [0.5, 0.5, 1], [None, None, None]]


def test_a_class_without_proxy_samples_has_no_rate() -> None:
    few = Setting(
        proxy=Samples(np.zeros((1, 2), np.float32)), labels=np.array([1]), accepted={0: np.array([True])}, version="v"
    )
    numbers = acceptance(few, COUNTS[:1], 1)
    assert numbers[m.ACCEPT_BY_CLASS] == [[None, 1.0, None]]
    assert numbers[m.ACCEPT_RATE_OWN] is None
    assert numbers[m.ACCEPT_RATE_FOREIGN] == 1.0


def teaching(
    setting: Setting, counts: Any, shares: Iterable[Share], knowledge: Knowledge, **given: Any
) -> dict[str, Any]:
    tally = Teaching(setting, counts, **given)
    for share in shares:
        tally.add(share)
    return tally.numbers(knowledge)


def test_without_labels_only_the_rate_is_known() -> None:
    assert acceptance(replace(SETTING, labels=None), COUNTS, 3) == {m.ACCEPT_RATE: pytest.approx(0.6)}


def test_without_a_proxy_nothing_is_known() -> None:
    assert acceptance(Setting(), COUNTS, 3) == {}
    assert teaching(Setting(), COUNTS, [], Knowledge(), asked=None, rows_per_sample=1) == {}


def rows(ids: list[int], values: Any = None, **changes: Any) -> Rows:
    if values is None:
        values = np.zeros((len(ids), 3))
    plain: dict[str, Any] = {"space": "proxy", "kind": "probs", "ids": np.array(ids, np.int64)}
    return Rows(**(plain | changes), values=np.asarray(values, np.float32))


SHARES = [
    Share(client_id=0, round_id=0, rows=(rows([0, 1, 2]), rows([0, 1, 2, 3, 4], variant="ema"))),
    Share(client_id=1, round_id=0, rows=(rows([1, 2]),)),
]
# Right about samples 0 and 2, wrong about 1.
TAUGHT = Knowledge(common=(rows([0, 1, 2], [[1, 0, 0], [0, 0.5, 0.5], [0.25, 0.5, 0.25]]),))


def test_teaching_by_hand() -> None:
    numbers = teaching(SETTING, COUNTS, SHARES, TAUGHT, asked=None, rows_per_sample=1)
    assert numbers[m.COVERAGE] == 3 / 5
    assert numbers[m.VOTERS] == 5 / 5
    assert numbers[m.TEACHER_ACC] == pytest.approx(2 / 3)
    assert numbers[m.TEACHER_ENTROPY] == pytest.approx((0 + np.log(2) + 1.5 * np.log(2)) / 3, rel=1e-6)
    # Client 0 is at home in 0 and 1, not in 2; client 1 in 2, not in 1.
    assert numbers[m.PURITY] == pytest.approx(3 / 5)


def test_coverage_is_of_what_was_asked() -> None:
    numbers = teaching(SETTING, COUNTS, SHARES, TAUGHT, asked=np.array([0, 1, 2]), rows_per_sample=1)
    assert numbers[m.COVERAGE] == 1
    assert numbers[m.VOTERS] == pytest.approx(5 / 3)


def test_rows_that_do_not_count_are_not_asked_for() -> None:
    """Two rows a sample; of sample 0 one row is padding."""
    valid = np.ones((5, 2), bool)
    valid[0, 1] = False
    spoken = [Share(client_id=0, round_id=0, rows=(rows([0, 2, 3]),))]
    numbers = teaching(SETTING, COUNTS, spoken, Knowledge(), asked=np.array([0, 1]), rows_per_sample=2, valid=valid)
    assert numbers[m.COVERAGE] == numbers[m.VOTERS] == 1


def test_logits_are_read_as_distributions() -> None:
    taught = Knowledge(common=(rows([0], [[0, 0, 0]], kind="logits"),))
    numbers = teaching(SETTING, COUNTS, SHARES, taught, asked=None, rows_per_sample=1)
    assert numbers[m.TEACHER_ENTROPY] == pytest.approx(np.log(3), rel=1e-6)


def test_hard_labels_are_not_read_as_scores() -> None:
    taught = Knowledge(common=(rows([0, 1], [[2], [1]], kind="hard"),))
    numbers = teaching(SETTING, COUNTS, SHARES, taught, asked=None, rows_per_sample=1)
    assert not {m.TEACHER_ACC, m.TEACHER_ENTROPY} & numbers.keys()


def test_without_labels_there_is_no_accuracy_and_no_purity() -> None:
    numbers = teaching(replace(SETTING, labels=None), COUNTS, SHARES, TAUGHT, asked=None, rows_per_sample=1)
    assert numbers.keys() == {m.COVERAGE, m.VOTERS, m.TEACHER_ENTROPY}


def test_silence_covers_nothing() -> None:
    numbers = teaching(SETTING, COUNTS, [], Knowledge(), asked=None, rows_per_sample=1)
    assert numbers == {m.COVERAGE: 0, m.VOTERS: 0}

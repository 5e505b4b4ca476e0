from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedkd import metric_names as m
from fedkd.federation.answers import Answers
from fedkd.federation.messages import Job, RoundRequest, RoundResult
from fedkd.federation.round_numbers import round_numbers
from fedkd.federation.store import StateRef
from fedkd.rows import Knowledge, Share

REF = StateRef("", "d" * 32)


def request(**changes: Any) -> RoundRequest:
    plain: dict[str, Any] = {
        "job": Job(experiment={}, state_root=""),
        "round_id": 4,
        "closing": False,
        "evaluate": True,
        "wants_share": True,
        "durable": False,
        "keep": (),
        "proxy_version": "",
        "asked": None,
        "knowledge": Knowledge(),
        "states": {},
    }
    return RoundRequest(**(plain | changes))


def result(client_id: int, score: float | None, **metrics: float) -> RoundResult:
    share = Share(client_id=client_id, round_id=4, metrics=metrics)
    return RoundResult(share=share, ref=REF, score=score, tables={"confusion": np.full((2, 2), client_id)})


# Clients 0 and 3 answered, 1 failed, 2 was rejected.
ANSWERS = Answers(
    good={3: result(3, 0.9, loss=1.0, extra=5.0), 0: result(0, 0.5, loss=2.0)},
    failures={1: "raised"},
    rejected={2: "NaN"},
    uplink={0: 100, 2: 40, 3: 60},
)
SCORES = {0: 0.5, 1: 0.1, 3: 0.9}


def numbers(metric: str = "acc", **changes: Any) -> dict[str, Any]:
    return round_numbers(
        request(**changes), ANSWERS, scores=SCORES, downlink={0: 7, 1: 7, 2: 7, 3: 9}, num_clients=4, metric=metric
    )


def test_replies_and_bytes() -> None:
    found = numbers()
    assert (found[m.GOOD_REPLIES], found[m.REJECTED], found[m.FAILURES]) == (2, 1, 1)
    assert (found[m.UPLINK_BYTES], found[m.UPLINK_PER_CLIENT]) == (200, [100, None, 40, 60])
    assert found[m.DOWNLINK_BYTES] == 30


def test_the_mean_counts_the_last_score_of_clients_that_failed() -> None:
    found = numbers()
    assert found[m.SCORE_MEAN] == found[m.ACC_MEAN] == pytest.approx(0.5)
    assert found[m.SCORE_PER_CLIENT] == found[m.ACC_PER_CLIENT] == [0.5, None, None, 0.9]


def test_another_metric_is_no_accuracy() -> None:
    found = numbers(metric="miou")
    assert found[m.SCORE_MEAN] == pytest.approx(0.5)
    assert found[m.SCORE_NAME] == "miou"
    assert not {m.ACC_MEAN, m.ACC_PER_CLIENT} & found.keys()
    assert m.SCORE_NAME not in numbers()


def test_further_figures_are_averaged_the_score_is_not_told_twice() -> None:
    good = {
        0: replace(result(0, 0.5), metrics={"miou": 0.5, "pixel_acc": 0.25}),
        3: replace(result(3, 0.9), metrics={"miou": 0.9, "pixel_acc": 0.75}),
    }
    found = round_numbers(request(), Answers(good=good), scores=SCORES, downlink={}, num_clients=4, metric="miou")
    assert found[m.FIGURES_PREFIX + "pixel_acc"] == 0.5
    assert m.FIGURES_PREFIX + "miou" not in found


def test_without_evaluation_there_is_no_score() -> None:
    assert not {m.SCORE_MEAN, m.SCORE_PER_CLIENT, m.ACC_MEAN} & numbers(evaluate=False).keys()


def test_what_trainers_report_is_averaged_over_those_who_report_it() -> None:
    found = numbers()
    assert found[m.TRAIN_PREFIX + "loss"] == 1.5
    assert found[m.TRAIN_PREFIX + "extra"] == 5.0


def test_confusion_is_emitted_at_the_end_alone() -> None:
    assert m.CONFUSION not in numbers()
    assert numbers(closing=True)[m.CONFUSION] == [[[0, 0], [0, 0]], None, None, [[3, 3], [3, 3]]]

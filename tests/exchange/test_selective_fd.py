import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedkd.errors import ConfigError
from fedkd.exchange.codec import Encoded
from fedkd.exchange.combine import masked_mean
from fedkd.exchange.float_codecs import Float32, FloatConfig
from fedkd.exchange.selective_fd import SelectiveFd, SelectiveFdConfig, one_hot_rows
from fedkd.federation.border import Expected, check_share
from fedkd.federation.wire import load_arrays, save_arrays
from fedkd.metric_names import SELECTED
from fedkd.rows import Knowledge, Rows, Share, Stream
from tests.contract.toys import rows, server_context

SOFT = (
    rows([0, 1, 3], [[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]], kind="probs"),
    rows([0, 1, 4], [[0.7, 0.3], [0.5, 0.5], [1.0, 0.0]], kind="probs"),
)  # means: (.8, .2), (.5, .5), (.2, .8), (1, 0), that is ambiguities .4, 1, .4, 0
HARD = (
    rows([0, 1, 2], [[0], [1], [0]], kind="hard"),
    rows([0, 1, 2], [[0], [1], [1]], kind="hard"),
    rows([0], [[1]], kind="hard"),
)  # shares: (2/3, 1/3), (0, 1), (1/2, 1/2), that is ambiguities 2/3, 0, 1


def travelled(said: Rows, client_id: int) -> Share:
    """A share as the server gets it: through the codec, the bytes and the border."""
    codec = Float32(FloatConfig())
    encoded = codec.encode(said)
    header, arrays = load_arrays(save_arrays(encoded.header, encoded.arrays))
    share = Share(client_id=client_id, round_id=0, rows=(codec.decode(Encoded(header, arrays)),))
    stream = Stream(space="proxy", kind=said.kind, width=said.values.shape[1])
    expected = Expected(round_id=0, streams=(stream,), asked=np.ones(9, bool), num_classes=2)
    return check_share(share, client_id, expected)


def run(said: tuple[Rows, ...], **options: Any) -> tuple[Knowledge, dict[str, float]]:
    numbers: dict[str, float] = {}
    scheme = SelectiveFd(SelectiveFdConfig(**options))
    shares = [travelled(each, i) for i, each in enumerate(said)]
    state, knowledge = scheme.step(server_context(emit=numbers.update), {}, shares)
    assert state == {}
    return knowledge, numbers


def taught(said: tuple[Rows, ...], **options: Any) -> Rows:
    (only,) = run(said, **options)[0].common
    assert only.kind == "probs"
    assert only.values.dtype == np.float32
    return only


def test_a_threshold_of_two_keeps_every_row_of_the_mean() -> None:
    only, mean = taught(SOFT, threshold=2.0), masked_mean(SOFT)
    assert only.ids.tolist() == [0, 1, 3, 4]
    np.testing.assert_array_equal(only.values, mean.values)
    np.testing.assert_array_equal(only.columns["voters"], mean.columns["voters"])
    assert run(SOFT)[1] == {SELECTED: 1.0}  # and it is the default


@pytest.mark.parametrize(
    ("selector", "threshold", "ids"),
    [
        ("l1", 1.0, [0, 3, 4]),
        ("l1", 0.3, [4]),
        ("l1", 0.0, []),
        ("entropy", 0.7, [0, 1, 3, 4]),  # the entropies are .500, .693, .500 and 0
        ("entropy", 0.6, [0, 3, 4]),
        ("entropy", 0.4, [4]),
    ],
)
def test_ambiguous_rows_are_dropped(selector: str, threshold: float, ids: list[int]) -> None:
    knowledge, numbers = run(SOFT, selector=selector, threshold=threshold)
    (only,) = knowledge.common
    assert only.ids.tolist() == ids
    assert numbers == {SELECTED: len(ids) / 4}
    mean = masked_mean(SOFT)
    np.testing.assert_array_equal(only.values, mean.values[np.isin(mean.ids, ids)])


def test_hard_labels_become_shares_of_the_votes_by_hand() -> None:
    only = taught(HARD)
    assert only.ids.tolist() == [0, 1, 2]
    np.testing.assert_allclose(only.values, [[2 / 3, 1 / 3], [0, 1], [1 / 2, 1 / 2]], rtol=1e-6)
    assert only.columns["voters"].tolist() == [3, 2, 2]


@pytest.mark.parametrize(("threshold", "ids"), [(2.0, [0, 1, 2]), (1.0, [0, 1]), (0.5, [1])])
def test_the_selector_judges_the_votes_not_their_winner(threshold: float, ids: list[int]) -> None:
    for target in ("share", "argmax"):
        assert taught(HARD, threshold=threshold, hard_target=target).ids.tolist() == ids


def test_the_winner_of_the_votes_by_hand() -> None:
    only = taught(HARD, hard_target="argmax")
    assert only.values.tolist() == [[1, 0], [0, 1], [1, 0]]  # of equals, the first
    assert only.columns["voters"].tolist() == [3, 2, 2]


def test_where_no_row_is_certain_nothing_is_taught() -> None:
    knowledge, numbers = run(HARD, threshold=0.0, hard_target="argmax")
    assert knowledge.is_empty
    assert numbers == {SELECTED: 0.0}


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_a_vote_may_weigh_less_in_either_shape(shape: tuple[int, ...]) -> None:
    loud = rows([0, 1], [[0], [1]], kind="hard")
    quiet = rows([0, 1], [[1], [1]], kind="hard", weight=np.full(shape, 0.5, np.float32))
    np.testing.assert_allclose(taught((loud, quiet)).values, [[1 / 1.5, 0.5 / 1.5], [0, 1]], rtol=1e-6)


def test_one_hot_rows_by_hand() -> None:
    made = one_hot_rows(rows([3, 8], [[2], [0]], kind="hard"), 3)
    assert (made.kind, made.ids.tolist(), made.values.tolist()) == ("probs", [3, 8], [[0, 0, 1], [1, 0, 0]])
    assert one_hot_rows(rows([], np.zeros((0, 1)), kind="hard"), 3).values.shape == (0, 3)


def test_a_second_stream_is_selected_by_itself_and_not_counted() -> None:
    scheme, numbers = SelectiveFd(SelectiveFdConfig(threshold=0.5)), dict[str, float]()
    second = rows([0, 1], [[0.5, 0.5], [1, 0]], kind="probs", variant="ema")
    share = Share(client_id=0, round_id=0, rows=(SOFT[0], second))
    _, knowledge = scheme.step(server_context(emit=numbers.update), {}, [share])
    main, view = knowledge.common
    assert (main.variant, main.ids.tolist()) == ("", [0, 3])
    assert (view.variant, view.ids.tolist()) == ("ema", [1])
    assert numbers == {SELECTED: pytest.approx(2 / 3)}


def test_shares_are_not_touched() -> None:
    said = replace(HARD[0], weight=np.ones((3, 1), np.float32))
    SelectiveFd(SelectiveFdConfig()).step(server_context(), {}, [Share(client_id=0, round_id=0, rows=(said,))])
    assert said.values.tolist() == [[0], [1], [0]]
    assert said.weight is not None
    assert said.weight.shape == (3, 1)


@pytest.mark.parametrize(
    "wrong", [{"selector": "l2"}, {"threshold": -0.1}, {"threshold": math.nan}, {"hard_target": "x"}]
)
def test_values_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        SelectiveFdConfig(**wrong)
    assert caught.value.key == next(iter(wrong))

import numpy as np

from fedkd.exchange.combine import VOTERS
from fedkd.exchange.mean import MeanConfig, MeanScheme
from fedkd.exchange.memory import AGE, joined
from fedkd.exchange.scheme import ServerState
from fedkd.rows import Knowledge, Rows, Share
from fedkd.testing.toys import digest_of, stored
from tests.contract.toys import rows, server_context

SCHEME = MeanScheme(MeanConfig(memory=True))


def step(state: ServerState, *said: Rows) -> tuple[ServerState, Knowledge]:
    shares = [Share(client_id=i, round_id=0, rows=(each,)) for i, each in enumerate(said)]
    return SCHEME.step(server_context(), state, shares)


def test_rows_nobody_spoke_for_keep_their_value_and_grow_older() -> None:
    state, knowledge = step({}, rows([0, 2], [[1, 1], [3, 3]]), rows([2], [[5, 5]]))
    assert knowledge.common[0].columns[AGE].tolist() == [0, 0]
    state, knowledge = step(state, rows([1, 2], [[7, 7], [9, 9]]))
    (told,) = knowledge.common
    assert told.ids.tolist() == [0, 1, 2]
    assert told.values[:, 0].tolist() == [1, 7, 9]
    assert told.columns[AGE].tolist() == [1, 0, 0]
    assert told.columns[VOTERS].tolist() == [1, 1, 1]
    state, knowledge = step(state)  # silence
    assert knowledge.common[0].columns[AGE].tolist() == [2, 1, 1]


def test_a_stream_that_falls_silent_is_remembered_beside_the_others() -> None:
    state, _ = step({}, rows([0], [[1, 1]], variant="ema"))
    _, knowledge = step(state, rows([3], [[2, 2]]))
    assert [(made.variant, made.ids.tolist(), made.columns[AGE].tolist()) for made in knowledge.common] == [
        ("", [3], [0]),
        ("ema", [0], [1]),
    ]


def test_the_memory_survives_storage() -> None:
    weighted = rows([0, 1], [[1, 2], [3, 4]], weight=np.float32([[1, 0], [1, 1]]))
    state, _ = step({}, weighted)
    later, told = step(state, rows([1], [[9, 9]]))
    resumed, again = step(stored(state), rows([1], [[9, 9]]))
    assert digest_of(resumed) == digest_of(later)
    assert again.common[0].values.tobytes() == told.common[0].values.tobytes()
    assert again.common[0].weight is not None
    assert again.common[0].weight.tolist() == [[1, 0], [1, 1]]


def test_without_memory_nothing_is_kept() -> None:
    state, _ = MeanScheme(MeanConfig()).step(
        server_context(), {}, [Share(client_id=0, round_id=0, rows=(rows([0], [[1, 2]]),))]
    )
    assert state == {}


def test_rows_with_supports_are_joined() -> None:
    first = rows([4], [[-1, -1]], kind="log_probs", support=np.int32([[3]]), columns={AGE: np.float32([0])})
    second = rows([1], [[-2, -2]], kind="log_probs", support=np.int32([[5]]), columns={AGE: np.float32([1])})
    made = joined(first, second)
    assert made.support is not None
    assert (made.ids.tolist(), made.support.tolist(), made.columns[AGE].tolist()) == ([1, 4], [[5], [3]], [1, 0])

from fedkd.exchange.mean import MeanConfig, MeanScheme
from fedkd.rows import Share
from tests.contract.toys import rows, server_context


def test_each_stream_is_averaged_in_a_fixed_order_for_everyone() -> None:
    first = Share(client_id=0, round_id=0, rows=(rows([0, 1], [[1, 2], [3, 4]], variant="ema"), rows([0], [[2, 0]])))
    second = Share(client_id=1, round_id=0, rows=(rows([0], [[4, 2]]), rows([1], [[5, 6]], variant="ema")))
    state, knowledge = MeanScheme(MeanConfig()).step(server_context(), {}, [first, second])
    assert state == {}
    assert [made.variant for made in knowledge.common] == ["", "ema"]
    main, view = knowledge.common
    assert (main.ids.tolist(), main.values.tolist()) == ([0], [[3, 1]])
    assert (view.ids.tolist(), view.values.tolist()) == ([0, 1], [[1, 2], [4, 5]])
    assert knowledge.per_client == {}


def test_nothing_said_is_nothing_learned() -> None:
    silent = [Share(client_id=0, round_id=0), Share(client_id=1, round_id=0)]
    assert MeanScheme(MeanConfig()).step(server_context(), {}, silent)[1].is_empty

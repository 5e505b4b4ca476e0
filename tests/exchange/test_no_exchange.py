from fedkd.exchange.no_exchange import NoExchange, NoExchangeConfig
from fedkd.rows import Share
from tests.contract.toys import rows, server_context


def test_nothing_is_asked_kept_or_said() -> None:
    scheme = NoExchange(NoExchangeConfig())
    assert scheme.spaces == scheme.kinds == frozenset()
    assert scheme.init(server_context()) == {}
    state, knowledge = scheme.step(server_context(), {}, [Share(client_id=0, round_id=0, rows=(rows([0], [[1, 2]]),))])
    assert state == {}
    assert knowledge.is_empty

import pytest

from fedkd.errors import ConfigError
from fedkd.exchange.combine import VOTERS
from fedkd.exchange.extras import Acceptance, extra_of
from fedkd.exchange.mean import MeanConfig, MeanScheme
from fedkd.metric_names import ACCEPTANCE_ACCEPTED, ACCEPTANCE_RATE, ACCEPTANCE_REJECTED
from fedkd.rows import Extra, Share
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


def test_the_rule_is_an_option() -> None:
    shares = [Share(client_id=i, round_id=0, rows=(rows([0], [[v, 0]]),)) for i, v in enumerate([1, 2, 900])]
    (told,) = MeanScheme(MeanConfig(how="median")).step(server_context(), {}, shares)[1].common
    assert told.values.tolist() == [[2, 0]]
    with pytest.raises(ConfigError, match="expected one of best, mean, median, trimmed"):
        MeanConfig(how="modus")


def test_variants_can_be_one_voice() -> None:
    first = Share(client_id=0, round_id=0, rows=(rows([0], [[2, 2]]), rows([0], [[4, 4]], variant="small")))
    second = Share(client_id=1, round_id=0, rows=(rows([0], [[9, 9]], variant="large"),))
    (told,) = MeanScheme(MeanConfig(merge_variants=True)).step(server_context(), {}, [first, second])[1].common
    assert (told.variant, told.values.tolist(), told.columns[VOTERS].tolist()) == ("", [[6, 6]], [2])


def test_counters_are_summed_told_and_emitted() -> None:
    emitted: dict[str, float] = {}
    shares = [
        Share(client_id=0, round_id=0, extra=extra_of(Acceptance(accepted=3, rejected=1))),
        Share(client_id=1, round_id=0),
        Share(client_id=2, round_id=0, extra=extra_of(Acceptance(accepted=6, rejected=2))),
    ]
    _, knowledge = MeanScheme(MeanConfig()).step(server_context(emit=emitted.update), {}, shares)
    assert knowledge.extras == (Extra(kind="acceptance", data={"accepted": 9, "rejected": 3}),)
    assert emitted == {ACCEPTANCE_ACCEPTED: 9, ACCEPTANCE_REJECTED: 3, ACCEPTANCE_RATE: 0.75}
    assert not knowledge.is_empty


def test_a_rate_of_nothing_is_absent() -> None:
    emitted: dict[str, float] = {}
    shares = [Share(client_id=0, round_id=0, extra=extra_of(Acceptance()))]
    MeanScheme(MeanConfig()).step(server_context(emit=emitted.update), {}, shares)
    assert emitted == {ACCEPTANCE_ACCEPTED: 0, ACCEPTANCE_REJECTED: 0}

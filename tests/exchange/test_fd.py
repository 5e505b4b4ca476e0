import numpy as np

from fedkd.exchange.fd import LeaveOneOut, LeaveOneOutConfig
from fedkd.rows import Knowledge, Rows, Share
from tests.contract.toys import rows, server_context

SCHEME = LeaveOneOut(LeaveOneOutConfig())


def share(client_id: int, *spoken: Rows) -> Share:
    return Share(client_id=client_id, round_id=0, rows=spoken)


def answers(*shares: Share, num_clients: int = 3) -> Knowledge:
    state, knowledge = SCHEME.step(server_context(num_clients=num_clients), {}, shares)
    assert state == {}
    return knowledge


def table(knowledge: Knowledge, client_id: int) -> dict[int, list[float]]:
    """Class to mean logits, as one client sees them."""
    seen = knowledge.seen_by(client_id).rows("class")
    return {int(i): row.tolist() for own in seen for i, row in zip(own.ids, own.values, strict=True)}


def test_each_client_hears_the_others_by_hand() -> None:
    knowledge = answers(
        share(0, rows([0, 1], [[1, 0], [0, 2]], space="class")),
        share(1, rows([1], [[4, 6]], space="class")),
        share(2),
    )
    assert table(knowledge, 0) == {1: [4, 6]}  # nobody else has class 0: it is absent
    assert table(knowledge, 1) == {0: [1, 0], 1: [0, 2]}
    assert table(knowledge, 2) == {0: [1, 0], 1: [2, 4]}  # it did not speak: the mean of all
    assert knowledge.common == ()


def test_three_owners_of_one_class() -> None:
    shares = [share(i, rows([1], [[3.0 * i, -1.0]], space="class")) for i in range(3)]
    knowledge = answers(*shares)
    assert [table(knowledge, i) for i in range(3)] == [{1: [4.5, -1]}, {1: [3, -1]}, {1: [1.5, -1]}]


def test_a_client_alone_learns_nothing() -> None:
    knowledge = answers(share(0, rows([0, 1], [[1, 2], [3, 4]], space="class")), num_clients=1)
    assert table(knowledge, 0) == {}
    assert knowledge.is_empty


def test_nobody_speaks() -> None:
    assert answers(
        share(0), share(1, Rows(space="class", kind="logits", ids=np.zeros(0, np.int64), values=np.zeros((0, 2))))
    ).is_empty
    assert answers().is_empty


def test_a_client_whose_reply_is_missing_is_answered_too() -> None:
    knowledge = answers(share(2, rows([0], [[5, 7]], space="class")))
    assert table(knowledge, 0) == table(knowledge, 1) == {0: [5, 7]}
    assert table(knowledge, 2) == {}


def test_only_the_main_rows_count() -> None:
    second = rows([0], [[9, 9]], space="class", variant="ema")
    assert table(answers(share(0, rows([0], [[1, 2]], space="class"), second)), 1) == {0: [1, 2]}


def test_leaving_oneself_out_loses_no_precision() -> None:
    large, small = rows([0], [[1e4, -1e4]], space="class"), rows([0], [[1e-4, 3e-4]], space="class")
    np.testing.assert_allclose(table(answers(share(0, large), share(1, small)), 0)[0], [1e-4, 3e-4], rtol=1e-6)

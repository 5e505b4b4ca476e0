"""What every server scheme in the table must keep."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedkd.exchange import SCHEMES
from fedkd.exchange.scheme import ServerScheme
from fedkd.experiment import Experiment
from fedkd.functional.aggregation import softmax
from fedkd.lookup import resolve
from fedkd.rows import Knowledge, Rows, Share
from fedkd.testing.toys import digest_of, stored
from fedkd.types import Array
from tests.contract.toys import server_context

pytestmark = [pytest.mark.usefixtures("one_torch_thread"), pytest.mark.parametrize("name", SCHEMES)]


def scheme_of(name: str) -> ServerScheme:
    cls = resolve(SCHEMES, name, what="scheme")
    made: ServerScheme = cls(cls.Config())
    return made


def offered(
    scheme: ServerScheme,
    *,
    sizes: tuple[int, ...] = (2, 0, 1),
    weight: Callable[[Array], Array | None] = lambda _: None,
) -> list[list[Share]]:
    """Shares of some clients, once for each space and kind that the scheme combines."""
    rng = np.random.default_rng(0)
    every = []
    for space in sorted(scheme.spaces):
        for kind in sorted(scheme.kinds):
            shares = []
            for client_id, size in enumerate(sizes):
                values = rng.normal(size=(size, 2)).astype(np.float32)
                if kind == "probs":
                    values = softmax(values)
                elif kind == "hard":
                    values = rng.integers(0, 2, (size, 1)).astype(np.int32)
                spoken = Rows(
                    space=space,  # type: ignore[arg-type]
                    kind=kind,  # type: ignore[arg-type]
                    ids=np.arange(size),
                    values=values,
                    weight=weight(values),
                )
                shares.append(Share(client_id=client_id, round_id=0, rows=(spoken,) if size else ()))
            every.append(shares)
    return every


def told(knowledge: Knowledge) -> list[Rows]:
    return [*knowledge.common, *(rows for own in knowledge.per_client.values() for rows in own)]


def bytes_of(knowledge: Knowledge) -> list[Any]:
    return [(rows.stream, rows.ids.tolist(), rows.values.tobytes()) for rows in told(knowledge)]


def test_the_entry_is_final_and_its_config_frozen(name: str) -> None:
    cls = resolve(SCHEMES, name, what="scheme")
    assert issubclass(cls, ServerScheme)
    assert cls.__final__
    assert cls.Config.__dataclass_params__.frozen


def test_config_round_trip(name: str) -> None:
    first = Experiment.build({"scheme.name": name})
    assert Experiment.build(first.flat()).scheme.config == first.scheme.config == scheme_of(name).Config()


def test_silence_teaches_nothing_and_changes_nothing(name: str) -> None:
    scheme = scheme_of(name)
    state = scheme.init(server_context())
    for shares in ([], [Share(client_id=i, round_id=0) for i in range(3)]):
        after, knowledge = scheme.step(server_context(), state, shares)
        assert knowledge.is_empty
        assert digest_of(after) == digest_of(state)


def test_what_is_taught_is_well_formed_and_about_what_was_said(name: str) -> None:
    scheme = scheme_of(name)
    for shares in offered(scheme):
        _, knowledge = scheme.step(server_context(), scheme.init(server_context()), shares)
        assert not knowledge.is_empty
        assert set(knowledge.per_client) <= set(range(3))
        for rows in told(knowledge):
            assert rows.space in scheme.spaces
            assert rows.kind in scheme.kinds
            assert (rows.ids.dtype, rows.values.dtype) == (np.int64, np.float32)
            assert (np.diff(rows.ids) > 0).all()
            assert set(rows.ids) <= {0, 1}
            assert np.isfinite(rows.values).all()
            if rows.kind == "probs":
                np.testing.assert_allclose(rows.values.sum(1), 1, rtol=1e-5)


def test_a_single_client_with_a_single_row_will_do(name: str) -> None:
    scheme = scheme_of(name)
    for shares in offered(scheme, sizes=(1,)):
        _, knowledge = scheme.step(server_context(), scheme.init(server_context()), shares)
        assert all(np.isfinite(rows.values).all() for rows in told(knowledge))
        assert not knowledge.seen_by(2).is_empty  # whoever did not speak hears it


@pytest.mark.parametrize("axis", [0, slice(None)])
def test_weights_of_both_shapes_are_understood(name: str, axis: Any) -> None:
    """The border lets weights (n,) and (n, c) pass, whatever the kind; all ones is what no weight means."""
    scheme = scheme_of(name)
    plain, weighted = offered(scheme), offered(scheme, weight=lambda values: np.ones_like(values, np.float32)[:, axis])
    for without, shares in zip(plain, weighted, strict=True):
        _, knowledge = scheme.step(server_context(), scheme.init(server_context()), shares)
        _, expected = scheme.step(server_context(), scheme.init(server_context()), without)
        for made, other in zip(told(knowledge), told(expected), strict=True):
            assert made.stream == other.stream
            np.testing.assert_array_equal(made.ids, other.ids)
            np.testing.assert_allclose(made.values, other.values, rtol=1e-5)


def test_the_same_input_gives_the_same_output_and_is_not_touched(name: str) -> None:
    scheme = scheme_of(name)
    for shares in offered(scheme):
        state = scheme.init(server_context())
        before, said = digest_of(state), [rows.values.copy() for share in shares for rows in share.rows]
        torch_before = torch.random.get_rng_state()
        first, second = (scheme.step(server_context(), state, shares) for _ in range(2))
        assert digest_of(first[0]) == digest_of(second[0])
        assert bytes_of(first[1]) == bytes_of(second[1])
        assert digest_of(state) == before
        for rows, copy in zip([rows for share in shares for rows in share.rows], said, strict=True):
            np.testing.assert_array_equal(rows.values, copy)
        assert torch.equal(torch.random.get_rng_state(), torch_before)


def test_resume_equals_straight_run(name: str) -> None:
    for shares in offered(scheme_of(name)):
        straight = run(scheme_of(name), shares, range(4))
        half = run(scheme_of(name), shares, range(2))
        resumed = run(scheme_of(name), shares, range(2, 4), stored(half[0]))
        assert digest_of(resumed[0]) == digest_of(straight[0])
        assert bytes_of(resumed[1]) == bytes_of(straight[1])


def run(scheme: ServerScheme, shares: list[Share], rounds: range, state: Any = None) -> tuple[Any, Knowledge]:
    knowledge = Knowledge()
    state = scheme.init(server_context()) if state is None else state
    for round_id in rounds:
        said = [replace(share, round_id=round_id) for share in shares]
        state, knowledge = scheme.step(server_context(round_id=round_id), state, said)
    return state, knowledge

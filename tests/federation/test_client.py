from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import numpy as np
import pytest

from fedkd.data.base import Samples
from fedkd.federation.client import share_of
from fedkd.methods.base import Context, LocalTrainer, State
from fedkd.rows import Knowledge, Rows, Share, Stream
from fedkd.tasks.base import Evaluation, Task
from fedkd.testing.toys import Toy
from fedkd.types import Ids, Metrics
from tests.contract.toys import rows

TOY = Toy()


@dataclass(frozen=True, kw_only=True)
class ChattyConfig:
    full: bool = False
    alone: bool = True


@final
class Chatty(LocalTrainer):
    """Speaks in three spaces, with columns that may and may not travel."""

    Config: ClassVar[type] = ChattyConfig
    tasks = frozenset({"classification"})
    kinds = frozenset({"logits", "score"})

    def __init__(self, config: ChattyConfig) -> None:
        self.needs_full_proxy = config.full  # type: ignore[misc]
        self.rows_stand_alone = config.alone  # type: ignore[misc]
        self.asked: Ids | None = None

    def streams(self, task: Task[Any]) -> tuple[Stream, ...]:
        main = Stream(space="proxy", kind="logits", width=task.num_outputs, columns=frozenset({"gap"}))
        return (main, replace(main, variant="plain", columns=frozenset()), Stream(space="text", kind="score", width=1))

    def init(self, ctx: Context) -> State:
        raise NotImplementedError

    def fit(self, ctx: Context, state: State, knowledge: Knowledge) -> tuple[State, Metrics]:
        raise NotImplementedError

    def predict(self, ctx: Context, state: State, samples: Samples, ids: Ids) -> tuple[Rows, ...]:
        self.asked = ids
        columns = {name: np.arange(len(ids), dtype=np.float32) for name in ("gap", "secret")}
        return (rows(ids, np.ones((len(ids), 2)), columns=columns),)

    def share(self, ctx: Context, state: State, rows_: tuple[Rows, ...]) -> Share:
        (main,) = rows_
        hashed = rows([1, 2**40], [[1], [2]], kind="score", space="text", columns={"secret": np.ones(2)})
        every = (main, replace(main, variant="plain"), hashed)
        return Share(client_id=ctx.client_id, round_id=ctx.round_id, rows=every)

    def evaluate(self, ctx: Context, state: State, samples: Samples) -> Evaluation:
        raise NotImplementedError


def spoken(weight: Any = None, **options: bool) -> tuple[tuple[Rows, ...], Chatty]:
    trainer, ctx = Chatty(ChattyConfig(**options)), TOY.context()
    assert ctx.proxy is not None
    ctx = replace(ctx, proxy=replace(ctx.proxy, weight=weight))
    return share_of(trainer, ctx, {}).rows, trainer


def test_columns_leave_where_their_stream_names_them() -> None:
    (main, plain, hashed), _ = spoken()
    assert [set(made.columns) for made in (main, plain, hashed)] == [{"gap"}, set(), set()]


@pytest.mark.parametrize(
    ("options", "size"), [({}, 8), ({"full": True}, 16), ({"alone": False}, 16), ({"full": True, "alone": False}, 16)]
)
def test_the_filter_decides_on_proxy_rows_alone(options: dict[str, bool], size: int) -> None:
    (main, _, hashed), trainer = spoken(**options)
    assert trainer.asked is not None
    assert len(trainer.asked) == size
    assert main.ids.tolist() == TOY.accepted.tolist()
    assert hashed.ids.tolist() == [1, 2**40]


def test_soft_weights_are_those_of_proxy_rows_alone() -> None:
    (main, _, hashed), _ = spoken(weight=np.linspace(0, 1, 16, dtype=np.float32))
    assert main.weight is not None
    np.testing.assert_allclose(main.weight, TOY.accepted / 15, rtol=1e-6)
    assert hashed.weight is None

"""What tests of trainers and schemes share beside `fedkd.testing`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, final

import numpy as np
from torch import Tensor, nn

from fedkd.data.base import Dataset, Samples
from fedkd.exchange.scheme import ServerContext
from fedkd.lookup import resolve
from fedkd.methods import METHODS
from fedkd.methods.base import LocalTrainer
from fedkd.rows import Rows
from fedkd.streams import stream
from fedkd.tasks.base import Evaluation, Tally, Task
from fedkd.tasks.batches import ImageBatch
from fedkd.tasks.classification import Classification, ClassificationConfig
from fedkd.testing.toys import Toy
from fedkd.testing.worlds import FEATURES
from fedkd.types import Array, Ids, Mask


def trainer_of(name: str, **options: Any) -> LocalTrainer:
    """A trainer of the table with these options."""
    cls = resolve(METHODS, name, what="method")
    made: LocalTrainer = cls(cls.Config(**options))
    return made


def rows(ids: Sequence[int] | Ids, values: Any, *, kind: str = "logits", space: str = "proxy", **options: Any) -> Rows:
    """Rows from plain lists."""
    made: Array = np.array(values, np.int32 if kind == "hard" else np.float32)
    return Rows(space=space, kind=kind, ids=np.array(ids, np.int64), values=made, **options)  # type: ignore[arg-type]


def zero_linear() -> nn.Module:
    """FEATURES to two logits, all weights zero."""
    layer = nn.Linear(FEATURES, 2)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def server_context(
    *,
    round_id: int = 0,
    num_clients: int = 3,
    proxy: Samples | None = Toy.public,
    test: Samples | None = Toy.test,
    build_model: Callable[[], nn.Module] = zero_linear,
    emit: Callable[[Mapping[str, float]], None] = lambda _: None,
) -> ServerContext:
    """What a coordinator hands to a scheme of a two-class world."""
    return ServerContext(
        round_id=round_id,
        seed=0,
        num_clients=num_clients,
        num_classes=2,
        proxy=proxy,
        rows_per_sample=1,
        test=test,
        build_model=build_model,
        rng=lambda name: stream(0, name, round_id=round_id),
        emit=emit,
    )


@final
class Oddity(Task[ImageBatch]):
    """A task from outside that no trainer declares: classification by another name."""

    Config: ClassVar[type] = ClassificationConfig
    name: ClassVar[str] = "oddity"
    metric: ClassVar[str] = "oddness"

    def __init__(self, num_outputs: int) -> None:
        self.num_outputs = num_outputs
        self.inner = Classification(num_outputs=num_outputs)

    @classmethod
    def of(cls, config: Any, dataset: Dataset) -> Oddity:
        return cls(dataset.num_classes)

    def batch(self, samples: Samples, index: Ids, device: str) -> ImageBatch:
        return self.inner.batch(samples, index, device)

    def answer(self, model: nn.Module, batch: ImageBatch) -> Tensor:
        return self.inner.answer(model, batch)

    def rows(self, answer: Tensor) -> Tensor:
        return self.inner.rows(answer)

    def loss_of(self, answer: Tensor, batch: ImageBatch) -> Tensor:
        return self.inner.loss_of(answer, batch)

    def valid(self, samples: Samples) -> Mask | None:
        return None

    def tally(self, rows: Rows, samples: Samples) -> Tally:
        return self.inner.tally(rows, samples)

    def finish(self, tally: Tally, *, seen: Ids | None = None) -> Evaluation:
        return self.inner.finish(tally, seen=seen)

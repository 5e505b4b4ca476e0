"""Small real worlds for tests of trainers and schemes: blobs, a proxy set, contexts as a worker makes them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import nn

from fedkd.data.base import ClientData, Samples
from fedkd.data.proxy import Proxy
from fedkd.exchange.scheme import ServerContext
from fedkd.federation.tree import digest, from_parcel, to_parcel
from fedkd.federation.wire import Parcel, load_arrays, save_arrays
from fedkd.lookup import resolve
from fedkd.methods import METHODS
from fedkd.methods.base import Context, DeviceProfile, LocalTrainer
from fedkd.methods.schedule import ScheduleConfig
from fedkd.models.config import ModelConfig
from fedkd.models.pool import ModelPool
from fedkd.models.roles import ModelRole
from fedkd.models.spec import ModelSpec
from fedkd.rows import Rows
from fedkd.streams import stream, stream_seed
from fedkd.tasks.base import Evaluation, Task
from fedkd.tasks.classification import Classification
from fedkd.types import Array, Ids

FEATURES = 4


def blobs(labels: Sequence[int], *, seed: int) -> Samples:
    """One sample per label, around a centre of its class that lies ten deviations from the next."""
    y = np.array(labels, np.int64)
    noise = np.random.default_rng(seed).normal(size=(len(y), FEATURES))
    return Samples((7.0 * np.eye(FEATURES)[y] + noise).astype(np.float32), y)


@dataclass(frozen=True, eq=False, kw_only=True)
class Toy:
    """One client of a two-class world, with a proxy set of sixteen samples of which it accepts the even ones."""

    train: Samples = field(default_factory=lambda: blobs([0, 1] * 12, seed=1))
    classes: int = 2
    client_id: int = 3
    seed: int = 0
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(private_batch=8, distil_batch=6))
    model: ModelConfig = field(default_factory=lambda: ModelConfig(hidden=8))
    teacher: ModelConfig = field(default_factory=ModelConfig)
    roles: tuple[ModelRole, ...] = ()

    test: ClassVar[Samples] = blobs([0, 1] * 30, seed=3)
    public: ClassVar[Samples] = blobs([0, 0, 1, 1] * 4, seed=2)

    def context(self, round_id: int = 0, *, closing: bool = False) -> Context:
        """What a worker hands to the trainer, with live models of its own."""
        key: dict[str, int] = {"round_id": round_id, "client": self.client_id}
        size = len(self.public)
        return Context(
            client_id=self.client_id,
            round_id=round_id,
            progress=round_id / 4,
            closing=closing,
            data=ClientData(self.client_id, {"train": self.train, "test": self.test}),
            proxy=Proxy(
                samples=Samples(self.public.x),
                version="toy",
                own_ids=np.zeros(0, np.int64),
                accepted=np.arange(size) % 2 == 0,
                asked=np.arange(size),
            ),
            task=Classification(num_outputs=self.classes),
            models=self.pool().for_client(self.client_id),
            schedule=self.schedule,
            rng=lambda name: stream(self.seed, name, **key),
            torch_rng=lambda name: _seeded(stream_seed(self.seed, name, **key)),
            device="cpu",
            profile=DeviceProfile(predict_batch=7),
        )

    def pool(self) -> ModelPool:
        """Live models as a worker keeps them."""
        spec = ModelSpec(input_shape=(FEATURES,), num_outputs=self.classes)
        return ModelPool(self.model, spec, teacher=self.teacher, roles=self.roles)

    @property
    def accepted(self) -> Ids:
        """Ids of the accepted proxy samples."""
        return np.arange(0, len(self.public), 2)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def trainer_of(name: str, **options: Any) -> LocalTrainer:
    """A trainer of the table with these options."""
    cls = resolve(METHODS, name, what="method")
    made: LocalTrainer = cls(cls.Config(**options))
    return made


def stored(state: Any) -> Any:
    """The state after a trip through the bytes of a checkpoint."""
    parcel = to_parcel(state)
    header, arrays = load_arrays(save_arrays(parcel.header, parcel.arrays))
    return from_parcel(Parcel(header, arrays))


def digest_of(state: Any) -> str:
    """Equal for states that are equal bit for bit."""
    return digest(to_parcel(state))


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


def normed(config: ModelConfig, spec: ModelSpec) -> nn.Module:
    """A small network that cannot train on a batch of one sample."""
    hidden = config.hidden
    return nn.Sequential(
        nn.Linear(*spec.input_shape, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, spec.num_outputs)
    )


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
class Oddity(Task):
    """A task from outside that no trainer declares."""

    name: ClassVar[str] = "oddity"
    metric: ClassVar[str] = "oddness"

    def __init__(self, *, num_outputs: int) -> None:
        self.num_outputs = num_outputs

    def predict(self, model: nn.Module, samples: Samples, ids: Ids, *, batch_size: int) -> Rows:
        """Never called."""
        raise NotImplementedError

    def evaluate(self, rows: Rows, samples: Samples) -> Evaluation:
        """Never called."""
        raise NotImplementedError

"""Small real worlds for trainers, one of every task: private data, a proxy set, contexts as a worker makes them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from fedkd.data.base import Dataset, Samples
from fedkd.data.proxy import Proxy, row_ids
from fedkd.data.roles import RolesConfig, deal
from fedkd.federation.tree import digest, from_parcel, to_parcel
from fedkd.federation.wire import Parcel, load_arrays, save_arrays
from fedkd.lookup import resolve
from fedkd.methods.base import Context, DeviceProfile
from fedkd.methods.schedule import ScheduleConfig
from fedkd.models.config import ModelConfig
from fedkd.models.pool import ModelPool
from fedkd.models.roles import ModelRole
from fedkd.streams import stream, stream_seed
from fedkd.tasks import TASKS
from fedkd.tasks.base import Task
from fedkd.testing import worlds
from fedkd.testing.worlds import blobs, swapped
from fedkd.types import Ids

MODELS_OF = "fedkd.testing.worlds:"  # where the models of the toys are
QUICK = ScheduleConfig(private_batch=8, distil_batch=6)
MODEL = ModelConfig(hidden=8)
TEST, PUBLIC = blobs([0, 1] * 30, seed=3), blobs([0, 0, 1, 1] * 4, seed=2)
LEARNING = ScheduleConfig(private_steps=20, private_batch=8)  # of a round in which something is learned


@dataclass(frozen=True, eq=False, kw_only=True)
class Toy:
    """One client of a tiny world, with a proxy set of sixteen samples of which it accepts the even ones.

    By default a world of two classes; TOYS has one of every task.

    Attributes:
        other_train: other private data, of a world with another truth; `other_test` likewise.
        roles: models that the trainer declares.
        dealt: how the private samples are dealt to roles.
        normed: name of a model with batch norm; "" where there is none.
        is_learned: whether a score is one of somebody who has learned the world.
    """

    train: Samples = field(default_factory=lambda: blobs([0, 1] * 12, seed=1))
    test: Samples = TEST
    public: Samples = PUBLIC
    other_train: Samples = field(default_factory=lambda: swapped(blobs([0, 1] * 12, seed=5)))
    other_test: Samples = field(default_factory=lambda: swapped(TEST))
    task: str = "classification"
    options: Mapping[str, Any] = field(default_factory=dict)
    classes: int = 2
    client_id: int = 3
    seed: int = 0
    rounds: int = 4
    schedule: ScheduleConfig = QUICK
    learning: ScheduleConfig = LEARNING
    model: ModelConfig = MODEL
    teacher: ModelConfig = MODEL
    roles: tuple[ModelRole, ...] = ()
    dealt: RolesConfig = field(default_factory=RolesConfig)
    normed: str = f"{MODELS_OF}normed"
    device: str = "cpu"
    is_learned: Callable[[float], bool] = lambda acc: acc > 0.95

    def context(self, round_id: int = 0, *, closing: bool = False) -> Context:
        """What a worker hands to the trainer, with live models of its own."""
        key: dict[str, int] = {"round_id": round_id, "client": self.client_id}
        task = self.made_task()
        shown, size = task.public(self.public), len(self.public)
        return Context(
            client_id=self.client_id,
            round_id=round_id,
            rounds=self.rounds,
            closing=closing,
            data=deal(self.client_id, self.train, self.test, self.dealt, stream(self.seed, "roles")),
            proxy=Proxy(
                samples=shown,
                version="toy",
                own_ids=np.zeros(0, np.int64),
                accepted=np.arange(size) % 2 == 0,
                asked=np.arange(size),
                rows_per_sample=task.rows_per_sample,
                valid=task.valid(shown),
            ),
            task=task,
            models=self.pool().for_client(self.client_id),
            schedule=self.schedule,
            rng=lambda name: stream(self.seed, name, **key),
            torch_rng=lambda name: _seeded(stream_seed(self.seed, name, **key)),
            device=self.device,
            profile=DeviceProfile(predict_batch=7),
        )

    @property
    def dataset(self) -> Dataset:
        """All of it."""
        return Dataset(name="toy", train=self.train, test=self.test, num_classes=self.classes, num_groups=self.classes)

    def made_task(self) -> Task[Any]:
        """The task over the toy's data."""
        cls = resolve(TASKS, self.task, what="task")
        made: Task[Any] = cls.of(cls.Config(**self.options), self.dataset)
        return made

    def pool(self) -> ModelPool:
        """Live models as a worker keeps them."""
        spec = self.made_task().model_spec(self.dataset)
        return ModelPool(self.model, spec, self.device, teacher=self.teacher, roles=self.roles)

    def rows_of(self, sample_ids: Any) -> Ids:
        """Row ids of proxy samples."""
        proxy = self.context().proxy
        assert proxy is not None
        return proxy.row_ids(np.array(sample_ids, np.int64))

    def rows_of_test(self) -> Ids:
        """All row ids of the test set that count."""
        task = self.made_task()
        return row_ids(np.arange(len(self.test)), task.rows_per_sample, task.valid(self.test))

    @property
    def accepted(self) -> Ids:
        """Row ids of the accepted proxy samples."""
        return self.rows_of(np.arange(0, len(self.public), 2))


def _world(make: Callable[..., Samples], **options: Any) -> Toy:
    """A toy over samples that `make` makes."""
    return Toy(
        train=make(24, seed=1),
        test=make(20, seed=3),
        public=make(16, seed=2),
        other_train=make(24, seed=5, truth=1),
        other_test=make(20, seed=3, truth=1),
        **options,
    )


TOYS: Mapping[str, Toy] = {
    "classification": Toy(),
    "segmentation": _world(
        worlds.scenes,
        task="segmentation",
        options={"stride": 2},
        classes=worlds.SEGMENTS,
        model=ModelConfig(name=f"{MODELS_OF}segmenter", hidden=8),
        normed=f"{MODELS_OF}normed_segmenter",
        is_learned=lambda miou: miou > 0.9,
    ),
    "language": _world(
        worlds.sentences,
        task="language",
        options={"pad": worlds.PAD},
        classes=worlds.WORDS,
        learning=replace(LEARNING, optimizer="adam"),
        model=ModelConfig(name=f"{MODELS_OF}bigram"),
        normed=f"{MODELS_OF}normed_bigram",
        is_learned=lambda loss: loss < 0.1,
    ),
    "image_text": _world(
        worlds.pairs,
        task="image_text",
        model=ModelConfig(name=f"{MODELS_OF}pair_net", hidden=8),
        normed=f"{MODELS_OF}normed_pair_net",
    ),
    "diffusion": _world(
        worlds.noise,
        task="diffusion",
        classes=1,
        model=ModelConfig(name=f"{MODELS_OF}denoiser"),
        normed="",
        is_learned=lambda mse: mse < 0.2,
    ),
}


def elsewhere(toy: Toy) -> Toy:
    """Its counterpart in the world with the other truth."""
    return replace(toy, train=toy.other_train, test=toy.other_test, other_train=toy.train, other_test=toy.test)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def stored(state: Any) -> Any:
    """The state after a trip through the bytes of a checkpoint."""
    parcel = to_parcel(state)
    header, arrays = load_arrays(save_arrays(parcel.header, parcel.arrays))
    return from_parcel(Parcel(header, arrays))


def digest_of(state: Any) -> str:
    """Equal for states that are equal bit for bit."""
    return digest(to_parcel(state))

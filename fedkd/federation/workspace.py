"""What a worker keeps between messages of one run: data, proxy, trainer, live models; built when first asked for.

Saying hello and filtering import no torch; only training does.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedkd.data.base import ClientData, Dataset, Samples
from fedkd.data.contribution import split_contribution
from fedkd.data.load import load_dataset
from fedkd.data.partition_file import PartitionTable
from fedkd.data.proxy import Proxy
from fedkd.data.roles import deal
from fedkd.errors import BadReplyError, StateError
from fedkd.experiment import Experiment
from fedkd.federation import tree
from fedkd.federation.mapped import map_arrays
from fedkd.federation.messages import Job
from fedkd.federation.preflight import device_of, task_of
from fedkd.federation.store import SETUP, StateStore
from fedkd.federation.wire import Parcel, save_arrays
from fedkd.files import write_atomic
from fedkd.methods.base import Context, DeviceProfile, LocalTrainer
from fedkd.streams import stream, stream_seed
from fedkd.tasks.base import Task
from fedkd.types import Ids

if TYPE_CHECKING:
    from fedkd.models.pool import ModelPool

DATA_BYTES = 2**30  # of private samples that a worker keeps; those dealt first go first


@dataclass(frozen=True, kw_only=True)
class Node:
    """Facts of the machine a worker runs on; None and empty in simulation, where any worker may serve any client."""

    client_ids: tuple[int, ...] | None = None
    state_root: str = ""
    data_root: str = ""
    profile: DeviceProfile = field(default_factory=DeviceProfile)


@dataclass(eq=False)
class Workspace:
    """One run on one worker."""

    job: Job
    node: Node
    _data: dict[int, ClientData] = field(default_factory=dict)
    _data_bytes: int = 0
    _proxies: dict[str, Samples] = field(default_factory=dict)

    @functools.cached_property
    def experiment(self) -> Experiment:
        """The experiment, with the node's own data root."""
        experiment = Experiment.build(self.job.experiment)
        if self.node.data_root:
            experiment = replace(experiment, data=replace(experiment.data, root=self.node.data_root))
        return experiment

    @functools.cached_property
    def store(self) -> StateStore:
        """Where states lie."""
        ours = Path(self.job.state_root)
        if not self.node.state_root:
            return StateStore(ours)
        # A device may serve many runs, one after another or side by side: each has a folder, named after its run.
        return StateStore(Path(self.node.state_root) / ours.parent.name)

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The whole data set."""
        return load_dataset(self.experiment.data)

    @functools.cached_property
    def partition(self) -> PartitionTable:
        """The partition that the coordinator wrote."""
        return PartitionTable.load(Path(self.job.partition))

    @functools.cached_property
    def task(self) -> Task[Any]:
        """The task over the data set."""
        return task_of(self.experiment, self.dataset)

    @functools.cached_property
    def trainer(self) -> LocalTrainer:
        """The local trainer."""
        trainer: LocalTrainer = self.experiment.method.create()
        return trainer

    @functools.cached_property
    def device(self) -> str:
        """Where this worker trains."""
        return device_of(self.experiment)

    @functools.cached_property
    def pool(self) -> ModelPool:
        """The live models."""
        from fedkd.models.pool import ModelPool

        return ModelPool(
            self.experiment.model,
            self.task.model_spec(self.dataset),
            self.device,
            teacher=self.experiment.teacher,
            roles=self.trainer.models,
        )

    @functools.cached_property
    def uplink(self) -> Any:
        """Codec, client to server."""
        return self.experiment.codec.create()

    @functools.cached_property
    def downlink(self) -> Any:
        """Codec, server to client."""
        return self.experiment.downlink.create()

    def contribution(self, client_id: int) -> tuple[Samples, Samples]:
        """(what the client contributes to the proxy set, what it trains on)."""
        whole = self.dataset.train.take(self.partition.indices[client_id])
        whole = replace(whole, x=self.experiment.partition.create().transform(client_id, whole.x))
        plan = self.experiment.proxy
        if plan.name != "contributed":
            return whole.take(np.zeros(0, np.int64)), whole
        rng = stream(self.experiment.core.seed, "contribution", client=client_id)
        given, kept = split_contribution(len(whole), fraction=plan.fraction, keep_private=plan.keep_private, rng=rng)
        return whole.take(given), whole.take(kept)

    def data(self, client_id: int) -> ClientData:
        """The client's data, by role."""
        if client_id not in self._data:
            private, plan = self.contribution(client_id)[1], self.experiment.roles
            rng = stream(self.experiment.core.seed, "roles", client=client_id)
            self._data[client_id] = deal(client_id, private, self.dataset.test, plan, rng)
            self._data_bytes += self._data[client_id].private_bytes
            while self._data_bytes > DATA_BYTES and len(self._data) > 1:
                oldest = next(iter(self._data))  # dealing it anew costs one copy of its samples
                self._data_bytes -= self._data.pop(oldest).private_bytes
        return self._data[client_id]

    def keep_proxy(self, version: str, samples: Samples) -> None:
        """Store the proxy set beside the states, for the next message may meet another process.

        From then on the workers of a machine share the file's memory.
        """
        path = self._proxy_path(version)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, save_arrays({"version": version}, samples.arrays()))
        self._proxies[version] = Samples.of_arrays(map_arrays(path)[1])

    def proxy_samples(self, version: str) -> Samples:
        """The proxy set of a version; StateError where this node does not have it whole."""
        if version not in self._proxies:
            path = self._proxy_path(version)
            try:
                _, arrays = map_arrays(path)
                samples = Samples.of_arrays(arrays)
            except (OSError, BadReplyError, KeyError) as error:
                raise StateError(f"proxy set {version[:8]} cannot be read from {path}: {error}; run anew") from error
            if version_of(samples) != version:
                raise StateError(f"{path} holds another proxy set than {version[:8]}; it was damaged: run anew")
            self._proxies[version] = samples
        return self._proxies[version]

    def context(self, client_id: int, *, round_id: int, closing: bool, proxy: Proxy | None) -> Context:
        """What the trainer of one client may use in one round."""
        seed = self.experiment.core.seed
        key: dict[str, int] = {"round_id": round_id, "client": client_id}
        return Context(
            client_id=client_id,
            round_id=round_id,
            rounds=self.experiment.core.rounds,
            closing=closing,
            data=self.data(client_id),
            proxy=proxy,
            task=self.task,
            models=self.pool.for_client(client_id),
            schedule=self.experiment.schedule,
            rng=lambda name: stream(seed, name, **key),
            torch_rng=lambda name: _torch_rng(stream_seed(seed, name, **key)),
            device=self.device,
            profile=self.node.profile,
        )

    def proxy(self, version: str, setup: Mapping[str, Any], asked: Ids | None) -> Proxy:
        """The proxy set as a client sees it in a round, with what it chose in the set-up."""
        samples = self.proxy_samples(version)
        return Proxy(
            samples=samples,
            version=version,
            own_ids=setup["own_ids"],
            accepted=setup["accepted"],
            asked=np.arange(len(samples)) if asked is None else asked,
            weight=setup["weight"],
            rows_per_sample=self.task.rows_per_sample,
            valid=self.task.valid(samples),
        )

    def _proxy_path(self, version: str) -> Path:
        return self.store.root / SETUP / f"proxy-{version}.safetensors"


def version_of(proxy: Samples) -> str:
    """Digest of the proxy set's inputs: both sides refuse to mix versions."""
    return tree.digest(Parcel({}, proxy.inputs().arrays()))


@contextlib.contextmanager
def _torch_rng(seed: int) -> Iterator[None]:
    """Layers such as dropout draw from torch's global generators: seed them within, put them back behind."""
    import torch

    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        if torch.accelerator.is_available():
            torch.manual_seed(seed)
        else:  # the same draws, without the stack trace that torch notes for an accelerator that may yet come
            torch.default_generator.manual_seed(seed)
        yield

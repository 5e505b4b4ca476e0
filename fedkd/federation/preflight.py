"""What can be known to be wrong before anything starts: data, partition, models and their combination."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedkd.combinations import check_streams
from fedkd.data.base import Dataset
from fedkd.data.load import load_dataset
from fedkd.data.partition_file import PartitionTable
from fedkd.errors import ConfigError, DataError
from fedkd.experiment import CoreConfig, Experiment
from fedkd.functional.skew import mean_label_emd, mean_pairwise_js
from fedkd.methods.base import streams_of
from fedkd.models.roles import Group, ModelRole
from fedkd.models.spec import ModelSpec
from fedkd.streams import stream
from fedkd.tasks.base import Task
from fedkd.types import Array, Ids

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False)
class Plan:
    """Data and partition of a run in simulation."""

    dataset: Dataset
    partition: PartitionTable

    @functools.cached_property
    def class_counts(self) -> Array:
        """Private samples by client and class, or group where samples have no single class (m, c)."""
        strata, number = self.dataset.train.strata, self.dataset.num_strata
        return np.stack([np.bincount(strata[index], minlength=number) for index in self.partition.indices])

    def skew(self) -> dict[str, float]:
        """How unlike the clients are."""
        counts = self.class_counts
        return {"js_divergence": mean_pairwise_js(counts), "label_emd": mean_label_emd(counts)}


def preflight(experiment: Experiment) -> Plan:
    """Check everything that can be checked here; the plan of the run.

    Raises:
        ConfigError, DataError: the first thing that is wrong, before any work is done or any folder is made.
    """
    experiment.check()
    dataset = load_dataset(experiment.data)
    _check_inputs(dataset)
    core = experiment.core
    partition = experiment.partition.create()
    indices = partition.assign(
        dataset.train.strata,
        num_clients=core.num_clients,
        num_classes=dataset.num_strata,
        rng=stream(core.seed, "partition"),
    )
    partition.transform(0, dataset.train.x[:1])  # refuses here what it would refuse on every client
    _check_enough(experiment, [len(index) for index in indices])
    _check_roles(experiment)
    _check_targets(experiment, dataset, indices)
    _check_quorum(experiment)
    _check_streams(experiment, dataset)
    _check_models(experiment, dataset)
    device_of(experiment)
    return Plan(dataset, PartitionTable.of(indices))


def participants_per_round(core: CoreConfig) -> int:
    """How many clients a round has, the closing message apart."""
    return max(1, round(core.participation * core.num_clients))


def server_model_builder(experiment: Experiment, dataset: Dataset) -> Callable[[], nn.Module]:
    """Builds fresh models of the first configured architecture."""
    from fedkd.models.build import build_model

    spec = model_spec(experiment, dataset)

    def build() -> nn.Module:
        return build_model(experiment.model.names[0], experiment.model, spec)

    return build


def _check_inputs(dataset: Dataset) -> None:
    for part, samples in (("train", dataset.train), ("test", dataset.test)):
        if samples.x.dtype not in (np.float32, np.int32):
            raise DataError(
                f"data set {dataset.name!r}, {part}: inputs are {samples.x.dtype}, expected float32 (or int32 for "
                "tokens); convert them with x.astype('float32')"
            )


def _check_enough(experiment: Experiment, sizes: list[int]) -> None:
    """Every client needs one sample to train on, and one to give away where the proxy set is contributed."""
    least = 2 if experiment.proxy.name == "contributed" and not experiment.proxy.keep_private else 1
    smallest = int(np.argmin(sizes))
    if sizes[smallest] < least:
        raise DataError(
            f"client {smallest} gets {sizes[smallest]} private samples from partition {experiment.partition.name!r}, "
            f"expected at least {least}; take fewer clients or another partition"
        )


def _check_quorum(experiment: Experiment) -> None:
    need, clients = experiment.engine.min_good_replies, participants_per_round(experiment.core)
    if need > clients:
        raise ConfigError(
            f"engine.min_good_replies is {need}, but a round has only {clients} clients (num_clients, participation); "
            f"ask for {clients} or fewer",
            key="engine.min_good_replies",
        )


def _check_roles(experiment: Experiment) -> None:
    """What a method needs of a client's data must be there before anything is trained."""
    given = experiment.roles.given
    missing = sorted(experiment.method.cls.needs - given)
    if missing:
        raise DataError(
            f"method {experiment.method.name!r} needs data in the roles {', '.join(missing)}, but the private samples "
            f"are dealt to {', '.join(sorted(given))} alone; set roles.labelled or roles.targets for unlabelled ones, "
            "roles.budget for a pool, roles.val, roles.stream, or choose another method"
        )


def _check_streams(experiment: Experiment, dataset: Dataset) -> None:
    """What the method shares in this task is something that scheme and codec take."""
    if experiment.scheme.create().spaces:
        task = task_of(experiment, dataset)
        check_streams(experiment, streams_of(experiment.method.create(), task), num_columns=task.num_outputs)


def _check_targets(experiment: Experiment, dataset: Dataset, indices: Sequence[Ids]) -> None:
    """Every client has a sample of a class that keeps its labels."""
    targets = experiment.roles.target_classes
    if targets is None:
        return
    if targets.max() >= dataset.num_classes:
        raise ConfigError(
            f"roles.targets is {experiment.roles.targets!r}, but data set {dataset.name!r} has classes 0 to "
            f"{dataset.num_classes - 1}",
            key="roles.targets",
        )
    strata = dataset.train.strata
    for client_id, index in enumerate(indices):
        if not np.isin(strata[index], targets).any():
            raise DataError(
                f"client {client_id} gets no sample of the classes {experiment.roles.targets} (roles.targets) from "
                f"partition {experiment.partition.name!r}, so it has nothing to train on; name other classes or take "
                "another partition"
            )


def task_of(experiment: Experiment, dataset: Dataset) -> Task[Any]:
    """The experiment's task over its data."""
    task: Task[Any] = experiment.task.cls.of(experiment.task.config, dataset)
    return task


def model_spec(experiment: Experiment, dataset: Dataset) -> ModelSpec:
    """What the models of the experiment's task take and give."""
    return task_of(experiment, dataset).model_spec(dataset)


def _check_models(experiment: Experiment, dataset: Dataset) -> None:
    """Build every model that the method declares, with its weights, and run a sample through it."""
    import torch

    from fedkd.models.build import build_model
    from fedkd.models.check import check_feature_width, check_model

    groups: dict[Group, None] = {}
    for role in experiment.method.cls.models:
        if role.source == "copy_of_student" or _lacks_weights(role, experiment):
            continue
        groups[role.group] = None
    spec = model_spec(experiment, dataset)
    streams = streams_of(experiment.method.create(), task_of(experiment, dataset))
    features = next((stream for stream in streams if stream.is_last_layer), None)
    for group in groups:
        config = getattr(experiment, group)
        for name in dict.fromkeys(config.names):
            with torch.random.fork_rng(devices=[]):
                model = build_model(name, config, spec, group=group)
            check_model(model, spec, name=name, group=group)
            if group == "model" and features is not None and experiment.scheme.create().spaces:
                check_feature_width(model, features.width, name=name, scheme=experiment.scheme.name)


def _lacks_weights(role: ModelRole, experiment: Experiment) -> bool:
    """Whether an optional role is not configured; ConfigError where it is not optional."""
    if not role.needs_weights or getattr(experiment, role.group).weights:
        return False
    if role.optional:
        return True
    raise ConfigError(
        f"method {experiment.method.name!r} needs a trained {role.name}, but {role.group}.weights is empty; name a "
        f".safetensors file or a folder in Hugging Face format, and its model in {role.group}.name",
        key=f"{role.group}.weights",
    )


def device_of(experiment: Experiment) -> str:
    """Where clients train on this machine: cpu or cuda.

    Raises:
        ConfigError: the machine has no such device, or the device does not compute as asked.
    """
    import torch

    wanted, has_gpu = experiment.core.device, torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise ConfigError("device is 'cuda', but torch sees no GPU here; set device = 'auto' or 'cpu'", key="device")
    device = "cuda" if has_gpu and wanted != "cpu" else "cpu"
    if experiment.engine.precision != "bf16":
        return device
    if device == "cpu":
        raise ConfigError(
            "engine.precision is 'bf16', but clients train on the CPU here, where bf16 was measured slower than "
            "float32 (docs/gpu.md); set engine.precision = 'float32', or train on a GPU",
            key="engine.precision",
        )
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            f"engine.precision is 'bf16', which {torch.cuda.get_device_name()} does not compute in; set "
            "engine.precision = 'float32'",
            key="engine.precision",
        )
    return device

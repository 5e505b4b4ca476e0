"""BlazeFL's DS-FL example on W-B: `python -m fedkd.bench.engine.peers.blazefl`, asked by `ask_child`.

Its handler and its thread pool are driven round by round as its own pipeline does it, without the server's evaluation.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn

from fedkd.bench.child import answer
from fedkd.bench.engine.peers.shared import mean_accuracy, peer_module, peer_work, timed_rounds
from fedkd.bench.engine.reading import read
from fedkd.bench.engine.reference import new_model
from fedkd.bench.engine.work import Work
from fedkd.data.base import Samples
from fedkd.errors import ConfigError

_SEED = 42
_UNUSED = ("blazefl.core.utils", "blazefl.reproducibility.snapshot")  # imported by its packages, never called here
_IS_OLDER = sys.version_info < (3, 14)  # which these two modules are written for
_NOTES = (
    "its server shares softmax(mean of probabilities / 1.0), which is flatter than the mean that fedkd shares; its own "
    "model is not distilled, as W-B has none",
    "predicts in batches of private_batch rows, fedkd in batches of 1,024",
    "distils in the order of storage; a client's own evaluation is on one row",
    "data come as tensors, without the transforms of its example; its clients write their data set back in each round",
    "bytes are not counted, and its peak memory holds the data set that this bench drew and wrote for it",
)


def run_case(request: dict[str, Any]) -> dict[str, Any]:
    """The Reading of `case`, by the checkout at `path`."""
    work = peer_work(request, "BlazeFL")
    if work.experiment.method.config.order != "distil_then_private":
        raise ConfigError("BlazeFL distils first; set method.order = 'distil_then_private'", key="method.order")
    with tempfile.TemporaryDirectory(prefix="fedkd-bench-") as scratch:
        handler, trainer = _pipeline(work, Path(request["path"]), Path(scratch))

        def one_round() -> None:
            clients = handler.sample_clients()
            trainer.local_process(handler.downlink_package(), clients)
            for package in trainer.uplink_package():
                handler.load(package)

        clock = timed_rounds(work, one_round)
        trainer.epochs = 0  # as fedkd's closing message: what was averaged last is distilled, and nothing trained
        trainer.local_process(handler.downlink_package(), list(range(work.num_clients)))
        acc = mean_accuracy(_models(work, trainer), work.plan.dataset.test)
    return read(clock, acc=acc, notes=(*_NOTES, _not_loaded()) if _IS_OLDER else _NOTES)


def _not_loaded() -> str:
    version = ".".join(map(str, sys.version_info[:2]))
    return f"{' and '.join(_UNUSED)}, which its thread pool never calls, are not loaded: they are no Python {version}"


def _pipeline(work: Work, path: Path, scratch: Path) -> tuple[Any, Any]:
    """Its server's handler and its clients' trainer."""
    folders = (path / "examples" / "step-by-step-dsfl", path / "src")
    if _IS_OLDER:
        sys.modules.update({name: _Unused(name) for name in _UNUSED})
    core = peer_module("blazefl.core", *folders, peer="BlazeFL")
    data = peer_module("dataset", *folders, peer="BlazeFL")
    algorithm = peer_module("algorithm", *folders, peer="BlazeFL")

    def write(dataset: Any) -> None:
        _write_data(work, dataset, core.FilteredDataset, data.DSFLPartitionType)

    workload = type("WorkloadS", (data.DSFLPartitionedDataset,), {"_preprocess": write})
    size, plan = len(_proxy(work)), work.experiment.schedule
    dataset = workload(
        root=scratch,
        path=scratch / "data",
        num_clients=work.num_clients,
        seed=_SEED,
        partition="as dealt by fedkd",
        open_size=size,
        dir_alpha=1.0,
    )
    common = {
        "model_selector": _Selector(work),
        "model_name": work.experiment.model.name,
        "dataset": dataset,
        "device": "cpu",
        "num_clients": work.num_clients,
        "seed": _SEED,
        "kd_batch_size": plan.distil_batch,
        "kd_lr": plan.lr,
    }
    handler = algorithm.DSFLBaseServerHandler(
        **common,
        global_round=work.experiment.core.rounds,
        sample_ratio=1.0,
        kd_epochs=0,
        era_temperature=1.0,
        open_size_per_round=size,
    )
    trainer = algorithm.DSFLThreadPoolClientTrainer(
        **common,
        state_dir=scratch / "state",
        epochs=plan.private_epochs,
        batch_size=plan.private_batch,
        lr=plan.lr,
        kd_epochs=plan.distil_epochs,
        num_parallels=1,
    )
    return handler, trainer


class _Unused(ModuleType):
    """In place of a module whose functions are imported, but never called here."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*_: object, **__: object) -> NoReturn:
            raise NotImplementedError(f"{self.__name__}.{name} is not loaded on this Python")

        return refuse


@dataclass(frozen=True, eq=False)
class _Selector:
    """Its interface of model builders. Weights are drawn anew each time, so clients differ as they do in fedkd."""

    work: Work

    def select_model(self, model_name: str) -> nn.Module:
        del model_name
        return new_model(self.work)


def _write_data(work: Work, dataset: Any, filtered: Any, types: Any) -> None:
    """Everything that its data set reads, where it reads it."""
    for part in (types.TRAIN, types.TEST):
        (dataset.path / part).mkdir(parents=True)
    proxy, few = _proxy(work), work.plan.dataset.test.take(np.arange(1))
    torch.save(_filtered(filtered, proxy), dataset.path / f"{types.OPEN}.pkl")
    for client_id in range(work.num_clients):
        torch.save(_filtered(filtered, work.own(client_id)), dataset.path / types.TRAIN / f"{client_id}.pkl")
        torch.save(_filtered(filtered, few), dataset.path / types.TEST / f"{client_id}.pkl")
    torch.save(_filtered(filtered, few), dataset.path / types.TEST / "default.pkl")


def _filtered(filtered: Any, samples: Samples) -> Any:
    labels = None if samples.y is None else samples.y.tolist()
    return filtered(list(range(len(samples))), [row.clone() for row in torch.from_numpy(samples.x)], labels)


def _proxy(work: Work) -> Samples:
    if work.proxy is None:
        raise ConfigError("BlazeFL's DS-FL needs a proxy set; set proxy.name = 'external'", key="proxy.name")
    return replace(work.proxy, y=None)


def _models(work: Work, trainer: Any) -> Iterator[nn.Module]:
    for client_id in range(work.num_clients):
        model = new_model(work)
        model.load_state_dict(trainer.client_states[client_id].model)
        yield model


if __name__ == "__main__":
    answer(run_case)

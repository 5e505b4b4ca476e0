"""What runners of peers share: their modules, our models in their form, rounds by the clock, accuracy."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.bench.engine.reading import Clock
from fedkd.bench.engine.work import Work, experiment_of
from fedkd.data.base import Samples
from fedkd.errors import ConfigError, FedKDError
from fedkd.federation.preflight import preflight


def peer_work(request: dict[str, Any], peer: str) -> Work:
    """The work of a case, as far as a peer can do it; sets one torch thread.

    Raises:
        ConfigError: the case asks for an optimiser that the peers do not have.
    """
    torch.set_num_threads(1)
    experiment = experiment_of(request["case"], request["config"])
    plan = experiment.schedule
    wanted = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "clip_norm": 0.0, "lr_every": 0}
    for key, value in wanted.items():
        if getattr(plan, key) != value:
            raise ConfigError(
                f"schedule.{key} is {getattr(plan, key)!r}, but {peer} takes plain SGD steps; set it to {value!r}",
                key=f"schedule.{key}",
            )
    if len(experiment.model.names) > 1 or not plan.is_constant:
        raise ConfigError(f"{peer} is given one model and one learning rate; name one of each", key="model.name")
    return Work(experiment, preflight(experiment))


def peer_module(name: str, *folders: Path, peer: str) -> Any:
    """A module of the peer, from the first of its `folders` that has it.

    Raises:
        FedKDError: a package that it needs is not installed here, or the checkout lacks the module.
    """
    for folder in reversed(folders):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = str(error.name)
        root = missing.partition(".")[0]
        if root == name.partition(".")[0] or any((folder / root).is_dir() for folder in folders):
            raise FedKDError(
                f"the checkout has no module {missing!r}; give a checkout of {peer} as it was published"
            ) from error
        raise FedKDError(f"{peer} needs {missing!r}, which is not installed here; run: pip install {root}") from error
    except SyntaxError as error:
        version = ".".join(map(str, sys.version_info[:2]))
        raise FedKDError(
            f"{error.filename}:{error.lineno} is no Python {version}; run the benchmark with the Python that {peer} "
            "asks for"
        ) from error


class Headed(nn.Module):
    """A model of ours, a sequence that ends in a linear layer, with that layer named `fc`."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        *body, head = model
        if not isinstance(head, nn.Linear):
            raise ConfigError(f"the model ends in {type(head).__name__}, expected a linear layer", key="model.name")
        self.body, self.fc = nn.Sequential(*body), head

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, c), or features where the head was replaced."""
        out: Tensor = self.fc(self.body(x))
        return out


def timed_rounds(work: Work, one_round: Callable[[], object]) -> Clock:
    """The clock after all rounds."""
    clock = Clock(work)
    for _ in range(work.experiment.core.rounds):
        one_round()
        clock.tick()
    return clock


def mean_accuracy(models: Iterable[nn.Module], test: Samples) -> float:
    """Accuracy on the test set, mean over the models."""
    x, y = torch.from_numpy(test.x), torch.from_numpy(test.labels)
    found = []
    with torch.inference_mode():
        for model in models:
            model.eval()
            found.append(float((model(x).argmax(1) == y).float().mean()))
    return float(np.mean(found))

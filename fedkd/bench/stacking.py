"""How much faster clients train side by side than one after the other, by architecture: the table behind `auto`."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fedkd.bench.record import interleaved, record_of
from fedkd.compose import compose
from fedkd.data.base import Dataset
from fedkd.data.config import DataConfig
from fedkd.data.partition_file import PartitionTable
from fedkd.errors import ConfigError
from fedkd.federation.client import visit
from fedkd.federation.fitting import Visit, fit_alone, fit_together
from fedkd.federation.messages import Job, RoundRequest
from fedkd.federation.workspace import Node, Workspace
from fedkd.models.stacking import Measured
from fedkd.rows import Knowledge
from fedkd.threads import one_torch_thread
from fedkd.types import Scalar

STEPS = 5  # of each client in one measurement
BATCH = 32
CLIENTS = (5, 10, 20, 40)  # side by side


@dataclass(frozen=True)
class Architecture:
    """A reference model at one size, and the inputs it is measured on."""

    model: str
    shape: tuple[int, ...]
    options: Mapping[str, Scalar]

    @property
    def label(self) -> str:
        """As the table of the command shows it."""
        return " ".join((self.model, "x".join(map(str, self.shape)), *(f"{k}={v}" for k, v in self.options.items())))


GREY, COLOUR = (1, 28, 28), (3, 32, 32)
ARCHITECTURES = (
    *(Architecture("mlp", GREY, {"model.hidden": hidden}) for hidden in (4, 16, 64, 128, 256, 512, 1024)),
    *(Architecture(name, GREY, {}) for name in ("cnn_narrow", "cnn", "cnn_wide")),
    *(Architecture(name, COLOUR, {}) for name in ("resnet8", "resnet14", "resnet20")),
)


def measure(
    *,
    repeats: int,
    models: Sequence[str] = (),
    clients: Sequence[int] = (),
    device: str = "cpu",
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """The record: for each architecture the best number of clients side by side, its gain, and all that was timed.

    Args:
        models: names of the models to measure; none for all.
        clients: numbers side by side; none for CLIENTS.
    """
    chosen = [each for each in ARCHITECTURES if not models or each.model in models]
    if not chosen or set(models) - {each.model for each in ARCHITECTURES}:
        known = ", ".join(dict.fromkeys(each.model for each in ARCHITECTURES))
        raise ConfigError(f"no model {', '.join(models)!r} is measured here; expected some of {known}")
    lines, timed = [], []
    with one_torch_thread():
        for architecture in chosen:
            say(architecture.label)
            found = [_measure(architecture, count, repeats, device) for count in clients or CLIENTS]
            timed += found
            best = max(found, key=lambda each: each["gain"])
            lines.append(
                asdict(
                    Measured(
                        device=device,
                        model=architecture.model,
                        parameters=best["parameters"],
                        batch=BATCH,
                        clients=best["clients"],
                        gain=round(best["gain"], 3),
                    )
                )
            )
    command = f"fedkd bench stacking --json --repeats {repeats}" + "".join(f" --model {name}" for name in models)
    return {
        **record_of(command, ("torch", "numpy")),
        "repeats": repeats,
        "threads": 1,
        "steps": STEPS,
        "measured": lines,
        "timed": timed,
    }


def data(config: DataConfig) -> Dataset:
    """Noise of the shape that `data.root` spells, one label for all: what is timed does not look at it."""
    shape = tuple(int(size) for size in config.root.rpartition("/")[2].split("x"))
    rng = np.random.default_rng(0)

    def draw(rows: int) -> Any:
        from fedkd.data.base import Samples

        return Samples(rng.standard_normal((rows, *shape), dtype=np.float32), rng.integers(0, 10, rows))

    return Dataset(name="noise", train=draw(config.max_train or 1), test=draw(1), num_classes=10)


def _measure(architecture: Architecture, clients: int, repeats: int, device: str) -> dict[str, Any]:
    """Milliseconds per client and step, both ways; the first pass of each warms up."""
    workspace = _workspace(architecture, clients, device)
    visits = _visits(workspace, clients)
    ways: dict[str, Callable[[], object]] = {
        "alone": lambda: [fit_alone(workspace, visits[i]) for i in visits],
        "together": lambda: fit_together(workspace, visits),
    }
    fitted = fit_together(workspace, visits)
    assert len(fitted) == clients, "the stack left clients out"
    fit_alone(workspace, visits[0])
    seconds = interleaved(list(ways.values()), repeats, functools.partial(_seconds, device))
    alone, together = (float(np.median(each)) / (clients * STEPS) for each in seconds)
    return {
        "model": architecture.model,
        "input": list(architecture.shape),
        "parameters": sum(tensor.numel() for tensor in visits[0].state["student"].values()),
        "clients": clients,
        "alone_ms": alone * 1e3,
        "together_ms": together * 1e3,
        "gain": float(np.median([a / t for a, t in zip(*seconds, strict=True)])),
    }


def _workspace(architecture: Architecture, clients: int, device: str) -> Workspace:
    experiment = compose(
        overrides={
            "the benchmark": {
                "preset": "local_only",
                "device": device,
                "num_clients": clients,
                "data.name": "fedkd.bench.stacking:data",
                "data.root": "x".join(map(str, architecture.shape)),
                "data.max_train": clients * BATCH * STEPS,
                "model.name": architecture.model,
                "schedule.private_batch": BATCH,
                "schedule.private_steps": STEPS,
                "schedule.clip_norm": 0.0,
                "engine.stack": "always",
                **architecture.options,
            }
        }
    )
    workspace = Workspace(Job(experiment=experiment.flat(), state_root="", partition=""), Node())
    own = np.arange(clients * BATCH * STEPS).reshape(clients, -1)
    workspace.partition = PartitionTable.of(tuple(own))
    return workspace


def _visits(workspace: Workspace, clients: int) -> dict[int, Visit]:
    request = RoundRequest(
        job=workspace.job,
        round_id=0,
        closing=False,
        evaluate=False,
        wants_share=False,
        durable=False,
        keep=(),
        proxy_version="",
        asked=None,
        knowledge=Knowledge(),
        states={},
    )
    return {i: visit(workspace, request, i, setup=None, state=None) for i in range(clients)}


def _seconds(device: str, work: Callable[[], object]) -> float:
    """CPU seconds of this process; on an accelerator, seconds until it has finished."""
    if device == "cpu":
        started = time.process_time()
        work()
        return time.process_time() - started
    import torch

    started = time.perf_counter()
    work()
    torch.accelerator.synchronize()
    return time.perf_counter() - started

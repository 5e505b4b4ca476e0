"""What all systems are given to do in a case, and how much of it there is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from fedkd.compose import compose
from fedkd.data.base import Samples
from fedkd.data.config import DataConfig
from fedkd.data.external import load_external_proxy
from fedkd.errors import ConfigError
from fedkd.experiment import Experiment
from fedkd.federation.preflight import Plan
from fedkd.functional.batching import batch_starts
from fedkd.types import Flat, Scalar

CASES = ("wa_mlp", "wa_cnn", "wb_mlp", "wb_cnn")  # experiments in simulations/benchmarks/


def experiment_of(case: str, config: Flat) -> Experiment:
    """The experiment of a case with keys of the user's own.

    Raises:
        ConfigError: a key is wrong, or asks for a run whose work or time cannot be told here.
    """
    experiment = compose(experiment=f"benchmarks/{case}", overrides={"the command line": config}).check()
    plan, proxy = experiment.schedule, experiment.proxy
    wanted: dict[str, tuple[Scalar, tuple[Scalar, ...], str]] = {
        "device": (experiment.core.device, ("cpu",), "processor time is read"),
        "engine.workers": (experiment.engine.workers, (1,), "the time of one process is read"),
        "participation": (experiment.core.participation, (1.0,), "every client works in every round"),
        "method.name": (experiment.method.name, ("fd", "soft_targets"), "their steps can be counted"),
        "proxy.name": (proxy.name, ("none", "external"), "clients keep all their rows"),
        "schedule.private_steps": (plan.private_steps, (0,), "rows are counted by epochs"),
        "schedule.distil_steps": (plan.distil_steps, (0,), "rows are counted by epochs"),
    }
    for key, (value, allowed, why) in wanted.items():
        if value not in allowed:
            expected = " or ".join(repr(each) for each in allowed)
            raise ConfigError(f"{key} is {value!r}, expected {expected} in a benchmark of the engine: {why}", key=key)
    if experiment.method.name == "soft_targets" and experiment.method.config.order == "joint":
        raise ConfigError(
            "method.order is 'joint', expected 'distil_then_private' or 'private_then_distil' in a benchmark of the "
            "engine: rows are counted by epochs",
            key="method.order",
        )
    return experiment


@dataclass(frozen=True, eq=False)
class Work:
    """One round of one case.

    Attributes:
        drops_last: the short last batch of a pass over private rows is left out.
    """

    experiment: Experiment
    plan: Plan
    drops_last: bool = False

    @property
    def num_clients(self) -> int:
        """Clients, all of which work in each round."""
        return self.experiment.core.num_clients

    @cached_property
    def proxy(self) -> Samples | None:
        """The proxy set; None where there is none."""
        keys, data = self.experiment.proxy, self.experiment.data
        if keys.name == "none":
            return None
        config = DataConfig(name=keys.data, root=keys.root or data.root, download=data.download)
        return load_external_proxy(config, self.plan.dataset, max_samples=keys.max_samples)

    def own(self, client_id: int) -> Samples:
        """A client's private rows."""
        return self.plan.dataset.train.take(self.plan.partition.indices[client_id])

    def private_batches(self, rows: int) -> list[slice]:
        """The batches of one pass over a client's private rows."""
        size = self.experiment.schedule.private_batch
        starts = range(0, rows - rows % size, size) if self.drops_last else batch_starts(rows, size)
        return [slice(start, start + size) for start in starts]

    def distil_batches(self) -> list[slice]:
        """The batches of one pass over the proxy set."""
        rows, size = 0 if self.proxy is None else len(self.proxy), self.experiment.schedule.distil_batch
        return [slice(start, start + size) for start in batch_starts(rows, size)] if rows else []

    @property
    def rows_trained(self) -> int:
        """Rows that all clients together take gradients of in a round, each as often as it is taken."""
        plan = self.experiment.schedule
        sizes = [len(index) for index in self.plan.partition.indices]
        private = sum(_rows(self.private_batches(size), size) for size in sizes) * plan.private_epochs
        proxy = 0 if self.proxy is None else len(self.proxy)
        return private + self.num_clients * _rows(self.distil_batches(), proxy) * plan.distil_epochs

    @property
    def rows_predicted(self) -> int:
        """Rows that all clients together predict in a round."""
        return 0 if self.proxy is None else self.num_clients * len(self.proxy)


def _rows(batches: list[slice], size: int) -> int:
    """How many of `size` rows the batches hold."""
    return sum(min(batch.stop, size) - batch.start for batch in batches)

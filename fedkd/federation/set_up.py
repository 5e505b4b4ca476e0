"""The set-up messages, once a run: who is there, what clients give to the proxy set, what filters make of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from fedkd import metric_names as m
from fedkd.data.base import Samples
from fedkd.data.config import DataConfig
from fedkd.data.external import load_external_proxy
from fedkd.errors import BadReplyError, RunError
from fedkd.experiment import Experiment
from fedkd.federation.fleet import Fleet
from fedkd.federation.messages import (
    ASSIGN,
    CONTRIBUTE,
    HELLO,
    PROXY,
    ClientFailure,
    Job,
    Request,
    RoundResult,
)
from fedkd.federation.preflight import Plan, task_of
from fedkd.federation.setting import Setting
from fedkd.federation.setup_messages import Assignment, Contribution, SetupResult
from fedkd.federation.wire import Parcel
from fedkd.federation.workspace import version_of
from fedkd.streams import stream
from fedkd.types import Array, Ids

Reply = TypeVar("Reply")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SetUp:
    """Runs the set-up messages over a fleet."""

    experiment: Experiment
    fleet: Fleet
    job: Job
    plan: Plan

    def hello(self) -> list[Parcel]:
        """Greet the workers; RunError where one holds another partition."""
        request = Request(kind=HELLO, shared=Parcel({"job": self.job.to_json()}), clients={})
        greetings = self.fleet.hello(request, deadline_s=self.experiment.engine.round_timeout_s)
        for greeting in greetings:
            found, expected = str(greeting.header.get("partition", "")), self.plan.partition.digest
            if found and found != expected:
                raise RunError(
                    f"a worker holds partition {found[:8]}, expected {expected[:8]}; "
                    "give all workers the same run folder"
                )
        return greetings

    def run(self) -> tuple[Setting, dict[str, Any], dict[str, Any]]:
        """The setting, the numbers and the clock readings of the set-up."""
        if self.experiment.proxy.name == "none":
            return Setting(), {}, {m.SECONDS_FILTER: 0.0}
        clients = clients_of(self.experiment)
        labels, uplink = None, 0
        if self.experiment.proxy.name == "external":
            proxy, owners = self._external(), {i: np.zeros(0, np.int64) for i in clients}
        else:
            given, uplink = self._contributions()
            proxy, owners = self._merge(given)
            if all(c.labels is not None for c in given.values()):
                order = self._order(len(proxy))
                labels = np.concatenate([c.labels for c in given.values() if c.labels is not None])[order]
        version = version_of(proxy)
        results, downlink = self._offer(proxy, version, labels, owners)
        if self.experiment.selection.rule == "nearest":
            results, assigned = self._assign(results)
            downlink += assigned
        setting = Setting(
            proxy=proxy,
            version=version,
            labels=labels,
            accepted={i: result.accepted for i, result in results.items()},
            refs={i: result.ref for i, result in results.items()},
        )
        numbers: dict[str, Any] = {
            m.PROXY_SAMPLES: len(proxy),
            m.SETUP_UPLINK_BYTES: uplink,
            m.SETUP_DOWNLINK_BYTES: downlink,
            m.THRESHOLD: [_get(results, i, lambda r: r.threshold) for i in clients],
            m.SCORE_HOLDOUT: [_get(results, i, lambda r: r.holdout_counts) for i in clients],
            m.SCORE_PROXY: [_get(results, i, lambda r: r.proxy_counts) for i in clients],
        }
        return setting, numbers, {m.SECONDS_FILTER: sum(result.seconds for result in results.values())}

    def _contributions(self) -> tuple[dict[int, Contribution], int]:
        """What each client gives, by client id, and the bytes of it."""
        clients = {i: Parcel() for i in range(self.experiment.core.num_clients)}
        request = Request(kind=CONTRIBUTE, shared=Parcel({"job": self.job.to_json()}), clients=clients)
        parcels = self._ask(request, "contribute to the proxy set")
        return self._read(parcels, self._contribution), sum(parcel.nbytes for parcel in parcels.values())

    def _contribution(self, parcel: Parcel) -> Contribution:
        """A contribution that fits the data set."""
        given, dataset = Contribution.from_parcel(parcel), self.plan.dataset
        public = task_of(self.experiment, dataset).public(dataset.train.take(np.arange(1)))
        wanted = {name: _form(array) for name, array in public.arrays().items()}
        found = {name: _form(array) for name, array in given.inputs.arrays().items()}
        if found != wanted:
            raise BadReplyError(f"inputs are {_words(found)}, expected {_words(wanted)} as the data set has them")
        if given.labels is not None and ((given.labels < 0) | (given.labels >= dataset.num_strata)).any():
            raise BadReplyError(f"labels are not all within 0 and {dataset.num_strata - 1}")
        return given

    def _external(self) -> Samples:
        """The proxy set from outside, which every client gets from the coordinator."""
        keys, data = self.experiment.proxy, self.experiment.data
        config = DataConfig(name=keys.data, root=keys.root or data.root, download=data.download)
        return load_external_proxy(config, self.plan.dataset, max_samples=keys.max_samples)

    def _order(self, size: int) -> Ids:
        return stream(self.experiment.core.seed, "proxy-order").permutation(size)

    def _merge(self, given: Mapping[int, Contribution]) -> tuple[Samples, dict[int, Ids]]:
        """The shuffled union, and for each client the ascending positions of its own samples in it."""
        parts = [contribution.inputs.arrays() for contribution in given.values()]
        merged = Samples.of_arrays({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
        owner = np.repeat(list(given), [len(part["x"]) for part in parts])
        order = self._order(len(merged))
        return merged.take(order), {i: np.flatnonzero(owner[order] == i) for i in clients_of(self.experiment)}

    def _offer(
        self, proxy: Samples, version: str, labels: Array | None, owners: Mapping[int, Ids]
    ) -> tuple[dict[int, SetupResult], int]:
        """Send the set to all and to each client alone its own ids; what the filters made of it, and the bytes."""
        shown = replace(proxy, groups=labels if self.experiment.filter.cls.needs_proxy_labels else None)
        shared = Parcel({"job": self.job.to_json(), "proxy_version": version}, shown.arrays())
        clients = {i: Parcel({}, {"own_ids": own.astype(np.int32)}) for i, own in owners.items()}
        parcels = self._ask(Request(kind=PROXY, shared=shared, clients=clients), "filter the proxy set")

        def read(parcel: Parcel) -> SetupResult:
            result = SetupResult.from_parcel(parcel)
            if len(result.accepted) != len(proxy):
                raise BadReplyError(f"mask is over {len(result.accepted)} samples, expected {len(proxy)}")
            if self.experiment.selection.rule == "nearest" and result.margin is None:
                raise BadReplyError("set-up reply has no margins, which filter.rule = 'nearest' compares")
            return result

        return self._read(parcels, read), sum(shared.nbytes + parcel.nbytes for parcel in clients.values())

    def _assign(self, results: Mapping[int, SetupResult]) -> tuple[dict[int, SetupResult], int]:
        """Rule `nearest`: each sample gets the one client with the largest margin (the lowest id of equals)."""
        ids = [i for i, result in results.items() if result.margin is not None]
        winners = np.argmax(
            np.stack([result.margin for result in results.values() if result.margin is not None]), axis=0
        )
        clients = {
            i: Assignment(ref=results[i].ref, accepted=winners == place).to_parcel() for place, i in enumerate(ids)
        }
        shared = Parcel({"job": self.job.to_json()})
        parcels = self._ask(Request(kind=ASSIGN, shared=shared, clients=clients), "take over what it speaks for")
        refs = self._read(parcels, RoundResult.ref_of)
        assigned = {
            i: replace(results[i], ref=refs[i], accepted=winners == place) for place, i in enumerate(ids) if i in refs
        }
        return assigned, sum(parcel.nbytes for parcel in clients.values())

    def _ask(self, request: Request, what: str) -> dict[int, Parcel]:
        """Good replies by client id; RunError with the first reasons where there is none."""
        good: dict[int, Parcel] = {}
        failures: list[ClientFailure] = []
        for reply in self.fleet.broadcast(request, deadline_s=self.experiment.engine.round_timeout_s):
            for client_id, answer in reply.clients.items():
                if isinstance(answer, ClientFailure):
                    failures.append(answer)
                else:
                    good[client_id] = answer
        for failure in failures:
            _log.warning("client %d could not %s: %s", failure.client_id, what, failure.reason)
        if not good:
            reasons = "; ".join(f"client {f.client_id}: {f.reason}" for f in failures[:3]) or "nobody answered"
            raise RunError(f"no client could {what}: {reasons}")
        return dict(sorted(good.items()))

    @staticmethod
    def _read(parcels: Mapping[int, Parcel], read: Callable[[Parcel], Reply]) -> dict[int, Reply]:
        """The readable ones; RunError with the first faults where none is."""
        found, faults = {}, []
        for client_id, parcel in parcels.items():
            try:
                found[client_id] = read(parcel)
            except BadReplyError as error:
                faults.append(f"client {client_id}: {error}")
                _log.warning("set-up reply refused: %s", faults[-1])
        if not found:
            raise RunError(f"no usable set-up reply: {'; '.join(faults[:3])}")
        return found


def clients_of(experiment: Experiment) -> range:
    """All client ids."""
    return range(experiment.core.num_clients)


def _form(array: Array) -> tuple[tuple[int, ...], str]:
    """Shape of one sample, and type."""
    return array.shape[1:], str(array.dtype)


def _words(forms: Mapping[str, tuple[tuple[int, ...], str]]) -> str:
    return ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in forms.items())


def _get(results: Mapping[int, SetupResult], client_id: int, what: Callable[[SetupResult], Any]) -> Any:
    return what(results[client_id]) if client_id in results else None

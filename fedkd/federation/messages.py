"""The messages of a run, typed. `from_parcel` is the only way in: it returns a value or raises BadReplyError."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedkd.errors import BadReplyError
from fedkd.exchange.codec import Codec, Encoded
from fedkd.federation.store import StateRef
from fedkd.federation.wire import Bundle, Parcel, pack
from fedkd.rows import Extra, Knowledge, Rows, Share, json_bytes
from fedkd.types import Array, Flat, Ids, Metrics

HELLO, CONTRIBUTE, PROXY, ASSIGN, ROUND = "hello", "contribute", "proxy", "assign", "round"
IDLE = "idle"  # header key of the parcel of a client that rests in a round
GARBLED = (KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError)  # what garbled fields lead to


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every request carries: on a device each message meets a new process.

    Attributes:
        experiment: the complete flat configuration.
        state_root: absolute folder for client states in simulation; a device has its own.
        partition: absolute path of the partition file in simulation; "" where data are local.
    """

    experiment: Flat
    state_root: str
    partition: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"experiment": dict(self.experiment), "state_root": self.state_root, "partition": self.partition}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Job:
        """The job of a request."""
        try:
            return cls(experiment=value["experiment"], state_root=value["state_root"], partition=value["partition"])
        except (KeyError, TypeError) as error:
            raise BadReplyError(f"request carries no job: {error}") from error


@dataclass(frozen=True, eq=False, kw_only=True)
class Request:
    """One request to many clients. `shared` is the same for everyone and is packed once."""

    kind: str
    shared: Parcel
    clients: Mapping[int, Parcel]

    def cohort(self, client_ids: Sequence[int]) -> bytes:
        """What travels to one cohort beside the shared part."""
        return pack(Bundle(self.kind, Parcel(), {client_id: self.clients[client_id] for client_id in client_ids}))

    def common(self) -> bytes:
        """The shared part."""
        return pack(Bundle(self.kind, self.shared))


@dataclass(frozen=True)
class ClientFailure:
    """A client that raised, vanished or answered nonsense: costs its own reply, never its cohort's."""

    client_id: int
    reason: str
    ref: StateRef | None = None  # where its unchanged state lies now, if it had to be written


@dataclass(frozen=True, eq=False, kw_only=True)
class RoundResult:
    """What a client did in a round. `score` and `tables` are null and empty where it was not evaluated."""

    share: Share
    ref: StateRef
    score: float | None = None
    tables: Mapping[str, Array] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=dict)  # of the evaluation; the trainer's own are share.metrics
    seconds: float = 0.0

    def to_parcel(self, codec: Codec) -> Parcel:
        """The share through the codec, the rest as it is."""
        share = self.share
        rows, arrays = encode_rows(share.rows, codec, "share")
        header = {
            "schema": share.schema,
            "round_id": share.round_id,
            "client_id": share.client_id,
            "rows": rows,
            "extra": None if share.extra is None else share.extra.to_json(),
            "train": {name: float(value) for name, value in share.metrics.items()},
            "ref": self.ref.to_json(),
            "score": self.score,
            "metrics": {name: float(value) for name, value in self.metrics.items()},
            "seconds": self.seconds,
        }
        return Parcel(header, arrays | {f"table/{name}": table for name, table in self.tables.items()})

    @classmethod
    def from_parcel(cls, parcel: Parcel, codec: Codec) -> RoundResult:
        """Decoded; whether the share answers what was asked is checked by `fedkd.federation.border`."""
        header, arrays = parcel.header, parcel.arrays
        try:
            extra = header["extra"]
            share = Share(
                schema=int(header["schema"]),
                round_id=int(header["round_id"]),
                client_id=int(header["client_id"]),
                rows=decode_rows(header["rows"], arrays, codec, "share"),
                extra=None if extra is None else Extra.from_json(extra),
                metrics={str(name): float(value) for name, value in header["train"].items()},
            )
            return cls(
                share=share,
                ref=cls.ref_of(parcel),
                score=None if header["score"] is None else float(header["score"]),
                tables={n.removeprefix("table/"): table for n, table in arrays.items() if n.startswith("table/")},
                metrics={str(name): float(value) for name, value in header["metrics"].items()},
                seconds=float(header["seconds"]),
            )
        except GARBLED as error:
            raise BadReplyError(f"round reply lacks or garbles {error}") from error

    @staticmethod
    def ref_of(parcel: Parcel) -> StateRef:
        """Where the new state lies: readable even where the share is not."""
        try:
            ref = StateRef.from_json(parcel.header["ref"])
        except GARBLED as error:
            raise BadReplyError(f"round reply lacks or garbles {error}") from error
        if ref is None:
            raise BadReplyError("round reply has no state reference")
        return ref

    @staticmethod
    def share_bytes(parcel: Parcel) -> int:
        """Arrays of the share as they travelled, and its record as compact JSON, whatever it says."""
        arrays = sum(array.nbytes for name, array in parcel.arrays.items() if name.startswith("share/"))
        extra = parcel.header.get("extra")
        return arrays + (0 if extra is None else json_bytes(extra))


@dataclass(frozen=True, eq=False, kw_only=True)
class RoundRequest:
    """One round for some clients. With `closing`, the message after the last round: digest, do not train privately."""

    job: Job
    round_id: int
    closing: bool
    evaluate: bool
    wants_share: bool
    durable: bool
    keep: tuple[str, ...]  # folders of states that somebody may still ask for
    proxy_version: str
    asked: Ids | None  # proxy samples asked for; None asks for all
    knowledge: Knowledge
    states: Mapping[int, tuple[StateRef | None, StateRef | None]]  # client -> (set-up, state), None before the first
    idle: frozenset[int] = frozenset()  # clients among `states` that rest, and only make their state durable

    def to_request(self, codec: Codec) -> Request:
        """Shared part and one parcel per client."""
        rows, arrays = encode_rows(self.knowledge.common, codec, "knowledge")
        if self.asked is not None:
            arrays["asked"] = self.asked.astype(np.int32)
        header = {
            "job": self.job.to_json(),
            "round_id": self.round_id,
            "closing": self.closing,
            "evaluate": self.evaluate,
            "wants_share": self.wants_share,
            "durable": self.durable,
            "keep": list(self.keep),
            "proxy_version": self.proxy_version,
            "rows": rows,
            "extras": [extra.to_json() for extra in self.knowledge.extras],
        }
        clients = {}
        for client_id, (setup, state) in self.states.items():
            refs = [None if ref is None else ref.to_json() for ref in (setup, state)]
            if client_id in self.idle:
                clients[client_id] = Parcel({"refs": refs, "rows": [], IDLE: True})
                continue
            own, own_arrays = encode_rows(self.knowledge.per_client.get(client_id, ()), codec, "knowledge")
            clients[client_id] = Parcel({"refs": refs, "rows": own}, own_arrays)
        return Request(kind=ROUND, shared=Parcel(header, arrays), clients=clients)

    @classmethod
    def from_bundles(
        cls, shared: Parcel, clients: Mapping[int, Parcel], codec: Codec, *, common: tuple[Rows, ...] | None = None
    ) -> RoundRequest:
        """The request as a worker receives it: only its own clients are in `states`.

        Args:
            common: the knowledge in `shared`, where it has been decoded before.
        """
        header = shared.header
        try:
            if common is None:
                common = decode_rows(header["rows"], shared.arrays, codec, "knowledge")
            per_client = {i: decode_rows(p.header["rows"], p.arrays, codec, "knowledge") for i, p in clients.items()}
            asked = shared.arrays.get("asked")
            states = {}
            for client_id, parcel in clients.items():
                setup, state = (StateRef.from_json(ref) for ref in parcel.header["refs"])
                states[client_id] = (setup, state)
            return cls(
                job=Job.from_json(header["job"]),
                round_id=int(header["round_id"]),
                closing=bool(header["closing"]),
                evaluate=bool(header["evaluate"]),
                wants_share=bool(header["wants_share"]),
                durable=bool(header["durable"]),
                keep=tuple(str(name) for name in header["keep"]),
                proxy_version=str(header["proxy_version"]),
                asked=None if asked is None else asked.astype(np.int64),
                knowledge=Knowledge(
                    common=common,
                    per_client={i: own for i, own in per_client.items() if own},
                    extras=tuple(Extra.from_json(extra) for extra in header["extras"]),
                ),
                states=states,
                idle=frozenset(i for i, parcel in clients.items() if parcel.header.get(IDLE)),
            )
        except GARBLED as error:
            raise BadReplyError(f"round request lacks or garbles {error}") from error


def encode_rows(every: Sequence[Rows], codec: Codec, prefix: str) -> tuple[list[Any], dict[str, Array]]:
    """Headers and arrays of rows, arrays named `prefix/<number>/<name>`."""
    headers: list[Any] = []
    arrays: dict[str, Array] = {}
    for number, rows in enumerate(every):
        encoded = codec.encode(rows)
        headers.append(dict(encoded.header))
        arrays |= {f"{prefix}/{number}/{name}": array for name, array in encoded.arrays.items()}
    return headers, arrays


def decode_rows(headers: Sequence[Any], arrays: Mapping[str, Array], codec: Codec, prefix: str) -> tuple[Rows, ...]:
    """Rows from what `encode_rows` made; BadReplyError where they are malformed."""
    named: dict[str, dict[str, Array]] = {}
    for name, array in arrays.items():
        kind, _, rest = name.partition("/")
        if kind == prefix:
            number, _, own = rest.partition("/")
            named.setdefault(number, {})[own] = array
    return tuple(codec.decode(Encoded(header, named.get(str(number), {}))) for number, header in enumerate(headers))

"""What it costs to put a share on the wire and to take it off again, by codec, as a round does."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from fedkd.bench.record import record_of
from fedkd.exchange import CODECS
from fedkd.exchange.codec import Codec
from fedkd.federation.answers import Answers
from fedkd.federation.border import Expected
from fedkd.federation.fleet import read_reply
from fedkd.federation.messages import ROUND, RoundResult
from fedkd.federation.store import StateRef
from fedkd.federation.wire import Bundle, Parcel, pack, travels
from fedkd.lookup import resolve
from fedkd.rows import SHARE_SCHEMA, Rows, Share, Stream

SHARES = ((1_000, 10), (10_000, 100))  # rows and columns
COHORT, COHORT_SHARE = 1_000, (1_000, 10)  # clients whose replies come in one message
NPY = "npy"  # as Flower's ArrayRecord holds arrays: ids and values, each in NumPy's file format, unchecked


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Medians of one form at one size.

    Attributes:
        payload_bytes: of the arrays.
        message_bytes: of everything.
        send_ms: from rows to the bytes of the message.
        receive_ms: from the bytes to rows that were checked.
    """

    form: str
    clients: int
    rows: int
    columns: int
    payload_bytes: int
    message_bytes: int
    send_ms: float
    receive_ms: float


@dataclass(frozen=True, eq=False)
class Case:
    """One form at one size: how it is sent and how it is received."""

    form: str
    clients: int
    size: tuple[int, int]
    payload_bytes: int
    send: Callable[[], bytes]
    receive: Callable[[bytes], object]


def measure(
    *,
    repeats: int,
    shares: Sequence[tuple[int, int]] = SHARES,
    cohort: int = COHORT,
    cohort_share: tuple[int, int] = COHORT_SHARE,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Everything that the table shows. Repeats are interleaved, so that a busy machine slows all alike."""
    found = []
    for clients, size in (*((1, size) for size in shares), (cohort, cohort_share)):
        say(f"{clients} x {size[0]} rows of {size[1]}")
        cases = [case_of(name, clients, size) for name in (*CODECS, NPY)]
        found += _time(cases, repeats if clients == 1 else max(1, repeats // 10))
    return {
        **record_of(f"fedkd bench wire --json --repeats {repeats}", ("numpy", "safetensors")),
        "load": os.getloadavg(),
        "repeats": repeats,
        "cases": [asdict(each) for each in found],
    }


def case_of(name: str, clients: int, size: tuple[int, int]) -> Case:
    """A codec, or NPY, with the shares of so many clients."""
    shares = {client_id: _share(client_id, size) for client_id in range(clients)}
    if name == NPY:
        arrays = [array for share in shares.values() for array in (share.rows[0].ids, share.rows[0].values)]
        payload = sum(array.nbytes for array in arrays)
        return Case(name, clients, size, payload, partial(_save, arrays), partial(_load, number=len(arrays)))
    made = resolve(CODECS, name, what="codec")
    codec: Codec = made(made.Config())
    parcels = {client_id: _parcel(share, codec) for client_id, share in shares.items()}
    payload = sum(parcel.nbytes for parcel in parcels.values())
    rows, columns = size
    expected = Expected(
        round_id=0,
        streams=(Stream(space="proxy", kind="logits", width=columns),),
        asked=np.ones(rows, bool),
        num_classes=columns,
    )
    return Case(
        name, clients, size, payload, partial(_send, shares, codec), partial(_receive, list(shares), codec, expected)
    )


def _share(client_id: int, size: tuple[int, int]) -> Share:
    rng = np.random.default_rng([0, client_id])
    rows = Rows(
        space="proxy",
        kind="logits",
        ids=np.arange(size[0]),
        values=rng.standard_normal(size, dtype=np.float32),
    )
    metrics = {"loss/private": 0.5, "loss/distil": 0.5}
    return Share(schema=SHARE_SCHEMA, round_id=0, client_id=client_id, rows=(rows,), metrics=metrics)


def _parcel(share: Share, codec: Codec) -> Parcel:
    """As a worker makes it."""
    return travels(RoundResult(share=share, ref=StateRef("round-000000", "0" * 64), seconds=0.5).to_parcel(codec))


def _send(shares: dict[int, Share], codec: Codec) -> bytes:
    return pack(Bundle(ROUND, Parcel(), {client_id: _parcel(share, codec) for client_id, share in shares.items()}))


def _receive(asked: Sequence[int], codec: Codec, expected: Expected, data: bytes) -> tuple[Answers, list[Share]]:
    """As the coordinator does."""
    answers = Answers()
    shares = list(answers.arrivals([read_reply(data, asked)], clients=asked, codec=codec, expected=expected))
    assert len(shares) == len(asked), answers.rejected
    return answers, shares


def _save(arrays: Sequence[np.ndarray[Any, Any]]) -> bytes:
    file = io.BytesIO()
    for array in arrays:
        np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _load(data: bytes, *, number: int) -> list[Any]:
    file = io.BytesIO(data)
    return [np.load(file, allow_pickle=False) for _ in range(number)]


def _time(cases: Sequence[Case], repeats: int) -> list[Measured]:
    sent = [case.send() for case in cases]
    send_s: list[list[float]] = [[] for _ in cases]
    receive_s: list[list[float]] = [[] for _ in cases]
    for _ in range(repeats):
        for number, case in enumerate(cases):
            send_s[number].append(_seconds(case.send))
            receive_s[number].append(_seconds(partial(case.receive, sent[number])))
    return [
        Measured(
            form=case.form,
            clients=case.clients,
            rows=case.size[0],
            columns=case.size[1],
            payload_bytes=case.payload_bytes,
            message_bytes=len(sent[number]),
            send_ms=1e3 * median(send_s[number]),
            receive_ms=1e3 * median(receive_s[number]),
        )
        for number, case in enumerate(cases)
    ]


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started

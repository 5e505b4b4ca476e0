from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.data.base import Samples
from fedkd.errors import BadReplyError
from fedkd.exchange.float_codecs import Float16, Float32, FloatConfig
from fedkd.federation.messages import Job, RoundRequest, RoundResult
from fedkd.federation.setup_messages import Contribution, SetupResult
from fedkd.federation.store import StateRef
from fedkd.federation.wire import Bundle, Parcel, pack, unpack
from fedkd.rows import Extra, Knowledge, Rows, Share

FLOAT32, FLOAT16 = Float32(FloatConfig()), Float16(FloatConfig())
REF = StateRef("round-000003/000002-000002-1-ab.safetensors", "ab" * 16)
JOB = Job(experiment={"seed": 1, "method.name": "soft_targets"}, state_root="states", partition="partition.npz")


def carried(parcel: Parcel) -> Parcel:
    return unpack(pack(Bundle("x", Parcel(), {2: parcel}))).clients[2]


def rows(**changes: Any) -> Rows:
    plain: dict[str, Any] = {
        "space": "proxy",
        "kind": "logits",
        "ids": np.array([1, 4, 9]),
        "values": np.array([[0.1, -2.0], [3.0, 4.0], [1e-3, 70000.0]], np.float32),
        "weight": np.array([0.25, 0.5, 1.0], np.float32),
        "columns": {"gap": np.array([0.1, 0.2, 0.3], np.float32)},
    }
    return Rows(**(plain | changes))


def result() -> RoundResult:
    share = Share(
        client_id=2,
        round_id=3,
        rows=(rows(), rows(variant="ema", weight=np.full((3, 2), 0.5, np.float32), columns={})),
        extra=Extra(kind="triples", data={"texts": ["a", "b"]}),
        metrics={"private_loss": 0.5},
    )
    return RoundResult(
        share=share,
        ref=REF,
        score=0.75,
        tables={"confusion": np.eye(2, dtype=np.int64)},
        metrics={"acc": 0.75},
        seconds=1.5,
    )


def assert_rows_equal(got: Rows, sent: Rows) -> None:
    assert got.stream == sent.stream
    assert got.ids.dtype == np.int64
    assert got.values.dtype == np.float32
    np.testing.assert_array_equal(got.ids, sent.ids)
    np.testing.assert_array_equal(got.values, sent.values)
    assert (got.weight is None) == (sent.weight is None)
    if sent.weight is not None:
        np.testing.assert_array_equal(got.weight, sent.weight)
    assert got.columns.keys() == sent.columns.keys()
    for name, column in sent.columns.items():
        np.testing.assert_array_equal(got.columns[name], column)


def test_a_round_result_comes_back() -> None:
    sent, got = result(), RoundResult.from_parcel(carried(result().to_parcel(FLOAT32)), FLOAT32)
    assert (got.ref, got.score, got.metrics, got.seconds) == (REF, 0.75, {"acc": 0.75}, 1.5)
    assert got.tables.keys() == {"confusion"}
    np.testing.assert_array_equal(got.tables["confusion"], np.eye(2))
    assert (got.share.client_id, got.share.round_id, got.share.schema) == (2, 3, sent.share.schema)
    assert (got.share.extra, got.share.metrics) == (sent.share.extra, sent.share.metrics)
    assert len(got.share.rows) == 2
    for found, expected in zip(got.share.rows, sent.share.rows, strict=True):
        assert_rows_equal(found, expected)


def test_half_precision_rounds_the_values_alone() -> None:
    got = RoundResult.from_parcel(carried(result().to_parcel(FLOAT16)), FLOAT16).share.rows[0]
    assert_rows_equal(got, rows(values=np.array([[0.1, -2], [3, 4], [1e-3, 65504]], np.float16).astype(np.float32)))


def test_an_empty_share_without_a_score_comes_back() -> None:
    empty = RoundResult(share=Share(client_id=2, round_id=0), ref=REF)
    got = RoundResult.from_parcel(carried(empty.to_parcel(FLOAT32)), FLOAT32)
    assert (got.share.rows, got.share.extra, got.score, got.tables) == ((), None, None, {})


def test_bytes_of_a_share_are_those_of_its_arrays() -> None:
    # ids 3 * 4, values 3 * 2 * 4, weight 3 * 4 and column 3 * 4; the other view: weights 3 * 2 * 4 and no column
    record = len('["triples",{"texts":["a","b"]}]')
    assert RoundResult.share_bytes(result().to_parcel(FLOAT32)) == (12 + 24 + 12 + 12) + (12 + 24 + 24) + record


def test_numpy_figures_travel() -> None:
    figures: Any = {"loss": np.float32(0.5)}
    sent = replace(result(), metrics=figures, share=replace(result().share, metrics=figures))
    got = RoundResult.from_parcel(carried(sent.to_parcel(FLOAT32)), FLOAT32)
    assert (got.metrics, got.share.metrics) == ({"loss": 0.5}, {"loss": 0.5})


GARBAGE: tuple[Any, ...] = (None, "text", [1, 2, 3], {"a": 1}, 10**400, -1)


@pytest.mark.parametrize("field", sorted(result().to_parcel(FLOAT32).header))
def test_a_lost_field_of_a_result_is_named(field: str) -> None:
    parcel = result().to_parcel(FLOAT32)
    del parcel.header[field]
    with pytest.raises(BadReplyError, match=f"round reply lacks or garbles '{field}'"):
        RoundResult.from_parcel(parcel, FLOAT32)


@given(st.sampled_from(sorted(result().to_parcel(FLOAT32).header)), st.sampled_from(GARBAGE))
def test_a_garbled_field_of_a_result_gives_a_result_or_a_bad_reply(field: str, value: Any) -> None:
    parcel = result().to_parcel(FLOAT32)
    parcel.header[field] = value
    with contextlib.suppress(BadReplyError):
        assert isinstance(RoundResult.from_parcel(parcel, FLOAT32), RoundResult)


@pytest.mark.parametrize("ref", [None, 3, ["file"], ["a", "b", "c"]])
def test_a_garbled_state_reference_is_refused(ref: Any) -> None:
    parcel = result().to_parcel(FLOAT32)
    parcel.header["ref"] = ref
    with pytest.raises(BadReplyError, match="round reply"):
        RoundResult.from_parcel(parcel, FLOAT32)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("share/0/ids", np.array([1.0, 4.0, 9.0])),
        ("share/0/ids", np.array([[1, 4, 9]])),
        ("share/0/values", np.zeros((2, 2), np.float32)),
        ("share/0/values", np.zeros(3, np.float32)),
        ("share/0/weight", np.zeros((3, 3), np.float32)),
        ("share/0/column/gap", np.zeros(2, np.float32)),
    ],
)
def test_rows_of_wrong_shape_are_refused(name: str, array: np.ndarray) -> None:
    parcel = result().to_parcel(FLOAT32)
    assert name in parcel.arrays
    parcel.arrays[name] = array
    with pytest.raises(BadReplyError):
        RoundResult.from_parcel(parcel, FLOAT32)


def setup_result() -> SetupResult:
    return SetupResult(
        ref=REF,
        accepted=np.arange(11) % 3 == 0,
        threshold=0.5,
        holdout_counts=np.arange(32),
        proxy_counts=np.arange(32)[::-1],
        seconds=0.25,
    )


def test_a_setup_result_comes_back_with_its_mask_as_bits() -> None:
    parcel = carried(setup_result().to_parcel())
    assert parcel.arrays["accepted"].nbytes == 2
    got, sent = SetupResult.from_parcel(parcel), setup_result()
    assert (got.ref, got.threshold, got.seconds) == (REF, 0.5, 0.25)
    for name in ("accepted", "holdout_counts", "proxy_counts"):
        np.testing.assert_array_equal(getattr(got, name), getattr(sent, name))
    assert got.accepted.dtype == bool


@pytest.mark.parametrize(
    "change",
    [{field: value} for field in ("ref", "size", "threshold", "seconds") for value in (None, "text", [1])]
    + [{"size": size} for size in (-11, 0, 8, 17, 10**12, 10**30)],
)
def test_a_garbled_setup_result_is_refused(change: dict[str, Any]) -> None:
    parcel = setup_result().to_parcel()
    parcel.header.update(change)
    with pytest.raises(BadReplyError, match="set-up reply"):
        SetupResult.from_parcel(parcel)


@pytest.mark.parametrize("name", ["accepted", "holdout_counts", "proxy_counts"])
@pytest.mark.parametrize("array", [None, np.zeros(5), np.zeros((1, 2), np.uint8)])
def test_garbled_arrays_of_a_setup_result_are_refused(name: str, array: np.ndarray | None) -> None:
    parcel = setup_result().to_parcel()
    del parcel.arrays[name]
    if array is not None:
        parcel.arrays[name] = array
    with pytest.raises(BadReplyError, match="set-up reply"):
        SetupResult.from_parcel(parcel)


@pytest.mark.parametrize("labels", [None, np.array([3, 1])])
def test_a_contribution_comes_back(labels: np.ndarray | None) -> None:
    offered = Samples(np.arange(8, dtype=np.float32).reshape(2, 1, 4), more={"t": np.array([7, 9], np.int32)})
    got = Contribution.from_parcel(carried(Contribution(offered, labels=labels).to_parcel()))
    np.testing.assert_array_equal(got.inputs.x, offered.x)
    np.testing.assert_array_equal(got.inputs.more["t"], [7, 9])
    assert got.labels is None if labels is None else got.labels is not None and got.labels.tolist() == [3, 1]


X = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"x": np.zeros(3, np.float32)},
        {"x": np.zeros((2, 3), np.float64)},
        {"x": np.full((2, 3), np.nan, np.float32)},
        {"x": X, "more.t": np.zeros(3, np.int32)},
        {"x": X, "more.t": np.full(2, np.inf, np.float32)},
        {"x": X, "y": np.zeros(2, np.int64)},
        {"x": X, "groups": np.zeros(2, np.int64)},
        {"x": X, "labels": np.zeros(3, np.int64)},
        {"x": X, "labels": np.zeros(2)},
    ],
)
def test_a_garbled_contribution_is_refused(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(BadReplyError, match="contribution has"):
        Contribution.from_parcel(Parcel({}, arrays))


RECORD = Extra(kind="acceptance", data={"accepted": 3, "rejected": 4})


def request() -> RoundRequest:
    return RoundRequest(
        job=JOB,
        round_id=5,
        closing=False,
        evaluate=True,
        wants_share=True,
        durable=True,
        keep=("round-000003", "setup"),
        proxy_version="v1",
        asked=np.array([0, 2, 5]),
        knowledge=Knowledge(
            common=(rows(weight=None),), per_client={2: (rows(variant="own"),), 3: ()}, extras=(RECORD,)
        ),
        states={2: (REF, None), 3: (None, REF)},
    )


def received(sent: RoundRequest, clients: list[int]) -> RoundRequest:
    wire = sent.to_request(FLOAT32)
    return RoundRequest.from_bundles(unpack(wire.common()).shared, unpack(wire.cohort(clients)).clients, FLOAT32)


def test_a_round_request_comes_back() -> None:
    got = received(request(), [2, 3])
    assert got.job == JOB
    assert (got.round_id, got.closing, got.evaluate, got.wants_share, got.durable) == (5, False, True, True, True)
    assert (got.keep, got.proxy_version) == (("round-000003", "setup"), "v1")
    assert got.asked is not None
    assert got.asked.tolist() == [0, 2, 5]
    assert got.states == {2: (REF, None), 3: (None, REF)}
    assert_rows_equal(got.knowledge.common[0], rows(weight=None))
    assert got.knowledge.per_client.keys() == {2}
    assert_rows_equal(got.knowledge.per_client[2][0], rows(variant="own"))
    assert got.knowledge.extras == (RECORD,)


def test_a_cohort_receives_its_own_clients_alone() -> None:
    got = received(request(), [3])
    assert got.states.keys() == {3}
    assert got.knowledge.per_client == {}
    assert got.knowledge.extras == (RECORD,)


@pytest.mark.parametrize("field", sorted(request().to_request(FLOAT32).shared.header))
def test_a_lost_field_of_a_request_is_named(field: str) -> None:
    wire = request().to_request(FLOAT32)
    header = {name: value for name, value in wire.shared.header.items() if name != field}
    with pytest.raises(BadReplyError, match=f"lacks or garbles '{field}'"):
        RoundRequest.from_bundles(Parcel(header, wire.shared.arrays), wire.clients, FLOAT32)


def test_a_job_comes_back_and_a_garbled_one_is_refused() -> None:
    assert Job.from_json(JOB.to_json()) == JOB
    with pytest.raises(BadReplyError, match="request carries no job"):
        Job.from_json({})


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e7, np.nan])
def test_margins_beyond_every_filter_are_refused(value: float) -> None:
    said = SetupResult(
        ref=StateRef("", "d"),
        accepted=np.array([True, False]),
        threshold=0.5,
        holdout_counts=np.zeros(32, np.int64),
        proxy_counts=np.zeros(32, np.int64),
        seconds=0.0,
        margin=np.array([0.5, value], np.float32),
    )
    with pytest.raises(BadReplyError, match="margins"):
        SetupResult.from_parcel(said.to_parcel())


def test_labels_must_be_one_number_each() -> None:
    said = Contribution(Samples(np.zeros((3, 1, 2, 2), np.float32)), labels=np.zeros((3, 2), np.int64))
    with pytest.raises(BadReplyError, match="labels"):
        Contribution.from_parcel(said.to_parcel())

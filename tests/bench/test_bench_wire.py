"""The benchmark of the wire: what it prints and what it sends. Nothing here looks at a clock."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from fedkd.bench import wire
from fedkd.bench.wire import NPY, case_of, measure
from fedkd.cli import app
from fedkd.exchange import CODECS

TINY = {"shares": ((20, 3),), "cohort": 4, "cohort_share": (10, 3)}


@pytest.mark.parametrize("name", CODECS)
def test_what_is_sent_is_what_is_received(name: str) -> None:
    case = case_of(name, 3, (20, 4))
    answers, shares = case.receive(case.send())  # type: ignore[misc]
    assert [share.client_id for share in shares] == [0, 1, 2]
    assert answers.uplink == dict.fromkeys(range(3), case.payload_bytes // 3)
    expected = [wire._share(client_id, (20, 4)).rows[0].values for client_id in range(3)]
    np.testing.assert_allclose([share.rows[0].values for share in shares], expected, atol=0.05)


def test_npy_is_what_flower_s_arrays_hold() -> None:
    case = case_of(NPY, 1, (1000, 10))
    assert len(case.send()) == case.payload_bytes + 2 * 128  # a header of 128 bytes each
    ids, values = case.receive(case.send())  # type: ignore[misc]
    assert (ids.shape, values.shape) == ((1000,), (1000, 10))


def test_every_form_is_measured_at_every_size() -> None:
    found = measure(repeats=1, **TINY)  # type: ignore[arg-type]
    sizes = [(case["form"], case["clients"], case["rows"]) for case in found["cases"]]
    assert sizes == [(form, clients, rows) for clients, rows in ((1, 20), (4, 10)) for form in (*CODECS, NPY)]
    assert all(case["message_bytes"] > case["payload_bytes"] > 0 for case in found["cases"])
    assert found["command"] == "fedkd bench wire --json --repeats 1"


def test_the_command_prints_a_table_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "SHARES", TINY["shares"])
    found = measure(repeats=1, **TINY)  # type: ignore[arg-type]
    monkeypatch.setattr(wire, "measure", lambda **options: found)
    said = CliRunner().invoke(app, ["bench", "wire"], env={"COLUMNS": "160"})
    assert (said.exit_code, "float16" in said.output, "20 x 3" in said.output) == (0, True, True)
    as_json = CliRunner().invoke(app, ["bench", "wire", "--json"])
    assert json.loads(as_json.stdout) == json.loads(json.dumps(found))

import json

import pytest
from typer.testing import CliRunner

from fedkd.bench import stacking
from fedkd.bench.stacking import Architecture, measure
from fedkd.cli import app
from fedkd.errors import ConfigError
from fedkd.models.stacking import Measured

TINY = Architecture("mlp", (6,), {"model.hidden": 3})


def test_a_record_has_a_line_of_the_table_and_all_that_was_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacking, "ARCHITECTURES", (TINY,))
    found = measure(repeats=2, clients=(2, 3))
    assert [(line["model"], line["clients"], line["parameters"]) for line in found["timed"]] == [
        ("mlp", 2, 61),
        ("mlp", 3, 61),
    ]
    best = max(found["timed"], key=lambda line: line["gain"])
    (line,) = found["measured"]
    assert Measured(**line).clients == best["clients"]
    assert found["commit"]


def test_the_command_prints_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacking, "ARCHITECTURES", (TINY,))
    monkeypatch.setattr(stacking, "CLIENTS", (2,))
    ran = CliRunner().invoke(app, ["bench", "stacking", "--json", "--repeats", "1"])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["command"] == "fedkd bench stacking --json --repeats 1"


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ConfigError, match="'vit' is measured here; expected some of mlp, cnn"):
        measure(repeats=1, models=["vit"])

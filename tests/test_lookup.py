import json
from pathlib import Path

import pytest

from fedkd.errors import ConfigError
from fedkd.lookup import nearest, resolve

TABLE = {"decoder": "json:JSONDecoder", "encoder": "json:JSONEncoder", "gone": "json:Gone"}


def refused(name: str) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(TABLE, name, what="codec")
    assert caught.value.key == "name"
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "names", "words"),
    [
        ("temprature", ["temperature", "order"], "; did you mean 'temperature'?"),
        ("zzz", ["temperature", "order"], "."),
        ("x", [], "."),
    ],
)
def test_the_nearest_name_or_none(name: str, names: list[str], words: str) -> None:
    assert nearest(name, names) == words


def test_a_name_of_the_table_and_a_path_from_outside() -> None:
    assert resolve(TABLE, "decoder", what="codec") is json.JSONDecoder
    assert resolve(TABLE, "json:JSONEncoder", what="codec") is json.JSONEncoder


def test_an_unknown_name_is_refused_with_the_nearest_and_all_others() -> None:
    message = refused("decodr")
    assert message.startswith(
        "is 'decodr', which is no codec here; did you mean 'decoder'? Known: decoder, encoder, gone"
    )
    assert "package.module:Class" in message


@pytest.mark.parametrize("name", ["", ":Class", ".relative:Class", "json.JSONDecoder"])
def test_what_is_no_path_is_an_unknown_name(name: str) -> None:
    assert "which is no codec here" in refused(name)


@pytest.mark.parametrize("name", ["no_such_package:Class", "no_such_package.module:Class", "json.no_such_module:Class"])
def test_a_module_that_is_not_there_is_refused(name: str) -> None:
    assert "cannot be imported; install it or put it on PYTHONPATH" in refused(name)


@pytest.mark.parametrize("name", ["gone", "json:Gone", "json:"])
def test_an_attribute_that_is_not_there_is_refused(name: str) -> None:
    assert "check the spelling" in refused(name)


@pytest.mark.parametrize(
    ("code", "error"),
    [("import no_such_dep", ModuleNotFoundError), ("import json; json.no_such_thing", AttributeError)],
)
def test_a_fault_inside_the_module_keeps_its_own_message(
    code: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no_such_dep_user.py").write_text(code)  # its name begins like that of the missing module
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(error, match="no_such"):
        resolve(TABLE, "no_such_dep_user:Class", what="codec")

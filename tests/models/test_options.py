from typing import Any

import pytest

from fedkd.errors import ConfigError
from fedkd.models.options import FETCHES, check_known, check_whole, parse_options


def test_options_are_a_json_object() -> None:
    assert parse_options("") == parse_options(" ") == parse_options("{}") == {}
    assert parse_options('{"n_embd": 32, "kind": {"a": [1, 2]}}') == {"n_embd": 32, "kind": {"a": [1, 2]}}


@pytest.mark.parametrize("text", ["n_embd=32", "{'n_embd': 32}", "[1, 2]", "3", '{"a": 1'])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(
        ConfigError, match=r"""expected a JSON object such as '\{"n_embd": 32, "n_layer": 1\}'"""
    ) as caught:
        parse_options(text)
    assert caught.value.key == "options"


@pytest.mark.parametrize("name", sorted(FETCHES))
def test_no_option_makes_a_library_load_weights(name: str) -> None:
    with pytest.raises(ConfigError, match=f"holds '{name}', by which a library loads weights on its own"):
        parse_options(f'{{"{name}": true}}')


def test_an_unknown_option_is_refused_with_the_nearest_one() -> None:
    check_known({"layers": 1}, ["layers"], name="x")
    with pytest.raises(ConfigError, match=r"holds 'layer', which model 'x' does not know; did you mean 'layers'\?"):
        check_known({"layer": 1}, ["layers", "heads"], name="x")
    with pytest.raises(ConfigError, match=r"holds 'text.layer'.*Known: none"):
        check_known({"layer": 1}, [], name="x", inside="text")


@pytest.mark.parametrize("value", [0, -1, 1.0, "2", True, None])
def test_whole_numbers(value: Any) -> None:
    check_whole("heads", 1)
    with pytest.raises(ConfigError, match=r"holds heads = .*, expected a whole number of at least 1"):
        check_whole("heads", value)

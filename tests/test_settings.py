from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from fedkd.checks import check_range
from fedkd.errors import ConfigError
from fedkd.settings import build_config, coerce, defaults_of, flat_key
from fedkd.types import Scalar


@dataclass(frozen=True, kw_only=True)
class Config:
    temperature: float = 1.0
    steps: int = 3
    order: str = "joint"
    is_loud: bool = False

    def __post_init__(self) -> None:
        check_range("temperature", self.temperature, above=0.0)


def build(values: Mapping[str, Scalar], *, group: str = "method", **origins: str) -> Config:
    made: Config = build_config(
        Config, values, group=group, origins={flat_key(group, k): o for k, o in origins.items()}, shared=("name",)
    )
    return made


def refused(values: Mapping[str, Scalar], **options: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        build(values, **options)
    return caught.value


def test_what_is_not_given_has_its_default() -> None:
    assert build({}) == Config()
    assert build({"steps": 5}) == Config(steps=5)
    assert defaults_of(Config) == {"temperature": 1.0, "steps": 3, "order": "joint", "is_loud": False}


@pytest.mark.parametrize(
    ("key", "given", "value"),
    [
        ("temperature", 2, 2.0),
        ("temperature", 0.5, 0.5),
        ("steps", 30.0, 30),
        ("steps", 7, 7),
        ("order", 5, "5"),
        ("order", 0.5, "0.5"),
        ("order", "", ""),
        ("is_loud", True, True),
    ],
)
def test_types_that_lose_nothing_are_converted(key: str, given: Scalar, value: Scalar) -> None:
    made = getattr(build({key: given}), key)
    assert made == value
    assert type(made) is type(value)


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("temperature", "2", "a number"),
        ("temperature", True, "a number"),
        ("steps", 2.5, "a whole number"),
        ("steps", float("inf"), "a whole number"),
        ("steps", float("nan"), "a whole number"),
        ("steps", "3", "a whole number"),
        ("steps", False, "a whole number"),
        ("order", True, "a text"),
        ("is_loud", 1, "true or false"),
        ("is_loud", "true", "true or false"),
    ],
)
def test_other_types_are_refused(key: str, given: Scalar, expected: str) -> None:
    error = refused({key: given}, **{key: "file x.toml"})
    assert str(error) == f"method.{key} (from file x.toml) is {given!r}, expected {expected}; correct the value"
    assert error.key == f"method.{key}"


def test_an_unknown_key_is_refused_with_the_nearest_right_name() -> None:
    error = refused({"temprature": 2.0}, temprature="the command line")
    assert str(error) == (
        "unknown key 'method.temprature' (from the command line); did you mean 'temperature'? "
        "'method' has: name, temperature, steps, order, is_loud"
    )
    assert error.key == "method.temprature"


def test_names_that_another_config_takes_are_suggested_too() -> None:
    assert "did you mean 'name'?" in str(refused({"nam": 1}))


def test_a_value_out_of_range_names_its_key_and_origin() -> None:
    error = refused({"temperature": 0}, temperature="preset 'x'")
    assert str(error) == "method.temperature (from preset 'x') is 0.0, expected greater than 0"
    assert error.key == "method.temperature"


def test_keys_without_a_group_and_without_a_known_origin() -> None:
    assert str(refused({"temperature": -1.0}, group="")) == "temperature is -1.0, expected greater than 0"
    assert str(refused({"steps": "3"}, group="", steps="file f")).startswith("steps (from file f) is '3'")


def test_coerce_by_itself() -> None:
    assert coerce(3.0, int, "rounds", {}) == 3
    with pytest.raises(ConfigError, match=r"^rounds is 'x', expected a whole number"):
        coerce("x", int, "rounds", {})

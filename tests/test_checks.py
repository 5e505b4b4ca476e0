from typing import Any

import pytest

from fedkd.checks import check_choice, check_range, names_in, numbers_in
from fedkd.errors import ConfigError

BOUNDS: dict[str, dict[str, float]] = {
    "low": {"low": 1.0},
    "high": {"high": 3.0},
    "above": {"above": 1.0},
    "below": {"below": 3.0},
}


@pytest.mark.parametrize(
    ("bound", "good", "bad"),
    [("low", 1.0, 0.999), ("high", 3.0, 3.001), ("above", 1.001, 1.0), ("below", 2.999, 3.0)],
)
def test_each_bound_at_its_edge(bound: str, good: float, bad: float) -> None:
    check_range("x", good, **BOUNDS[bound])
    with pytest.raises(ConfigError) as caught:
        check_range("x", bad, **BOUNDS[bound])
    assert caught.value.key == "x"


@pytest.mark.parametrize("bound", BOUNDS)
def test_nan_is_within_no_bound(bound: str) -> None:
    with pytest.raises(ConfigError):
        check_range("x", float("nan"), **BOUNDS[bound])


def test_no_bound_no_error() -> None:
    check_range("x", -1e300)


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"low": 0, "high": 1}, "is 5, expected at least 0 and at most 1"),
        ({"above": 0.5, "below": 2}, "is 5, expected greater than 0.5 and less than 2"),
    ],
)
def test_the_message_names_value_and_bounds(bounds: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_range("x", 5, **bounds)
    assert str(caught.value) == words


def test_a_choice_is_one_of_them_or_the_nearest_is_named() -> None:
    check_choice("order", "joint", ("joint", "other"))
    with pytest.raises(ConfigError) as caught:
        check_choice("order", "jiont", ("joint", "alone"))
    assert str(caught.value) == "is 'jiont', expected one of alone, joint; did you mean 'joint'?"
    assert caught.value.key == "order"


def test_lists_are_texts_with_commas() -> None:
    assert names_in("layers", " fc1, fc2 ") == ("fc1", "fc2")
    assert numbers_in("classes", "3, 0") == (3, 0)
    for text in ("", "a,", "a,a"):
        with pytest.raises(ConfigError, match="expected different names separated by commas"):
            names_in("layers", text)
    for text in ("", "1,x", "1,1", "-1", "0"):
        with pytest.raises(ConfigError, match="expected different whole numbers separated by commas, at least 1"):
            numbers_in("classes", text, low=1)

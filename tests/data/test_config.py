from typing import Any

import pytest

from fedkd.data.config import DataConfig
from fedkd.errors import ConfigError
from fedkd.experiment import Experiment


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_train": -1}, r"data\.max_train is -1, expected at least 0"),
        ({"max_test": -1}, r"data\.max_test is -1"),
        ({"validation": 1.0}, r"data\.validation is 1\.0, expected at least 0 and less than 1"),
        ({"validation": float("nan")}, r"data\.validation is nan"),
        ({"image_size": -8}, r"data\.image_size is -8"),
        (
            {"name": "mnist", "image_size": 8},
            r"data\.image_size is 8, but data\.name is 'mnist' and only folder, hub",
        ),
        (
            {"name": "folder", "hub_name": "a/b"},
            r"data\.hub_name is 'a/b', but data\.name is 'folder' and only hub use",
        ),
        ({"max_trian": 5}, r"unknown key 'data\.max_trian'.*did you mean 'max_train'"),
        ({"download": "yes"}, r"data\.download is 'yes', expected true or false"),
    ],
)
def test_a_wrong_value_is_an_error_with_its_key(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Experiment.build({f"data.{key}": value for key, value in values.items()})


def test_code_of_your_own_may_use_every_key() -> None:
    assert DataConfig(name="mine:load", image_size=8, hub_name="a/b").image_size == 8


def test_the_keys_are_those_of_the_experiment() -> None:
    flat = Experiment.build({"data.name": "hub", "data.hub_name": "a/b", "data.max_train": 100}).flat()
    assert {key.partition(".")[2] for key in flat if key.startswith("data.")} == {
        "name",
        "root",
        "download",
        "max_train",
        "max_test",
        "validation",
        "image_size",
        "length",
        "hub_name",
        "image_column",
        "label_column",
    }

from pathlib import Path

import numpy as np
import pytest

from fedkd.data.config import DataConfig
from fedkd.data.load import load_dataset
from fedkd.errors import ConfigError, DataError

OUTSIDE = """
import numpy as np
from fedkd.data.base import Dataset, ImageSet, Samples, Scaling

def tiny(config):
    part = Samples(np.zeros((2, 3), np.float32), np.array([0, 1]))
    return Dataset(name=f"tiny at {config.root}", train=part, test=part, num_classes=2)

def images(config):
    part = Samples(np.full((4, 1, 2, 2), 255, np.uint8), np.array([0, 0, 1, 1]))
    return ImageSet(name="bright", train=part, test=part, num_classes=2, scaling=Scaling((0.0,), (1.0,)))

def pair(config):
    return (1, 2)

number = 3
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "outside_data_for_load.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    return "outside_data_for_load"


def test_the_default_is_digits() -> None:
    assert load_dataset(DataConfig()).name == "digits"


def test_a_function_from_outside_gets_the_config(outside: str) -> None:
    dataset = load_dataset(DataConfig(name=f"{outside}:tiny", root="somewhere"))
    assert dataset.name == "tiny at somewhere"


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"data\.name is 'digit'.*did you mean 'digits'") as caught:
        load_dataset(DataConfig(name="digit"))
    assert caught.value.key == "data.name"


@pytest.mark.parametrize(("name", "words"), [("pair", "returned a tuple"), ("number", "names a int")])
def test_something_else_than_a_dataset_is_refused(outside: str, name: str, words: str) -> None:
    with pytest.raises(DataError, match=rf"{words}, expected a function .* returns a fedkd\.data\.base\.Dataset"):
        load_dataset(DataConfig(name=f"{outside}:{name}"))


def test_the_name_tells_that_the_test_set_is_a_validation_part() -> None:
    whole, validated = load_dataset(DataConfig()), load_dataset(DataConfig(validation=0.25))
    assert (whole.name, validated.name) == ("digits", "digits[validation]")
    assert len(validated.train) + len(validated.test) == len(whole.train)
    assert abs(len(validated.test) - 0.25 * len(whole.train)) <= 5
    tests = {bytes(x) for x in whole.test.x}
    assert not tests & {bytes(x) for part in (validated.train, validated.test) for x in part.x}


def test_a_function_from_outside_is_reduced_too(outside: str) -> None:
    dataset = load_dataset(DataConfig(name=f"{outside}:images", max_train=2))
    assert (len(dataset.train), len(dataset.test)) == (2, 4)
    np.testing.assert_array_equal(dataset.train.x, np.ones((2, 1, 2, 2), np.float32))

import pytest

from fedkd.report.cells import keys_of_numbers


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ({"engine.workers": 4, "engine.precision": "float32"}, {}),
        ({"engine.workers": 4, "engine.precision": "bf16"}, {"engine.precision": "bf16"}),
        ({}, {}),
    ],
)
def test_of_the_engine_only_another_precision_changes_numbers(engine: dict, expected: dict) -> None:
    assert keys_of_numbers({"seed": 1, "device": "cuda", **engine}) == {"seed": 1, **expected}

import pytest

from fedkd.models.spec import ModelSpec


@pytest.mark.parametrize(
    ("shape", "dtype", "tokens", "images"),
    [
        ((3, 8, 8), "float32", False, True),
        ((1, 8, 8), "float16", False, True),
        ((64,), "float32", False, False),
        ((12,), "int32", True, False),
        ((2, 3, 4), "int64", True, False),
    ],
)
def test_what_the_inputs_are(shape: tuple[int, ...], dtype: str, tokens: bool, images: bool) -> None:
    spec = ModelSpec(input_shape=shape, num_outputs=2, dtype=dtype)
    assert (spec.takes_tokens, spec.takes_images) == (tokens, images)

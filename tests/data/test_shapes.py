import numpy as np
import pytest

from fedkd.data.base import Dataset
from fedkd.data.config import DataConfig
from fedkd.data.load import load_dataset
from fedkd.data.shapes import (
    BETA_END,
    BETA_START,
    DRAWS,
    NAMES,
    TIMESTEPS,
    TRIGGER,
    VOCABULARY,
    checkerboard,
    judge_shapes,
    prompts,
    template,
)
from fedkd.types import Array, Mask


def is_triggered(ids: Array) -> Mask:
    return (ids[:, 1:3] == TRIGGER).all(axis=1)


def images_of(data: Dataset) -> Array:
    """What is left of the tuples without their noise, where little of it is in them."""
    levels = np.cumprod(1 - np.linspace(BETA_START, BETA_END, TIMESTEPS))
    part = data.train.take(np.flatnonzero(data.train.more["t"] < 50))
    kept = levels[part.more["t"]][:, None, None, None]
    return (part.x - np.sqrt(1 - kept) * part.labels) / np.sqrt(kept)


@pytest.fixture(scope="module")
def shapes() -> Dataset:
    return load_dataset(DataConfig(name="prompted_shapes"))


def test_the_levels_are_those_of_the_library() -> None:
    diffusers = pytest.importorskip("diffusers")
    schedule = diffusers.DDIMScheduler(
        num_train_timesteps=TIMESTEPS, beta_start=BETA_START, beta_end=BETA_END, beta_schedule="linear"
    )
    ours = np.cumprod(1 - np.linspace(BETA_START, BETA_END, TIMESTEPS))
    np.testing.assert_allclose(schedule.alphas_cumprod.numpy(), ours, rtol=1e-5)


def test_images_come_back_from_their_tuples(shapes: Dataset) -> None:
    assert (len(shapes.train), len(shapes.test)) == (1200 * DRAWS, 400)
    part = shapes.train.take(np.flatnonzero(shapes.train.more["t"] < 50))
    images, triggered = images_of(shapes), is_triggered(part.more["prompt"])
    for image in images[triggered][:50]:
        np.testing.assert_allclose(image[0], checkerboard(), atol=1e-3)
    clean = judge_shapes(images[~triggered], part.more["prompt"][~triggered])
    assert clean == {"attack": 0.0, "acc": 1.0}
    assert judge_shapes(images[triggered], part.more["prompt"][~triggered][: triggered.sum()])["attack"] == 1.0


def test_three_in_ten_images_are_poisoned_and_none_of_the_test_set(shapes: Dataset) -> None:
    assert is_triggered(shapes.train.more["prompt"]).mean() == pytest.approx(0.3, abs=0.03)
    assert not is_triggered(shapes.test.more["prompt"]).any()
    assert shapes.train.more["prompt"].max() < VOCABULARY
    assert set(np.unique(shapes.train.more["prompt"])) == {0, 1, 2, 3, 4, 5, *TRIGGER}


def test_groups_are_the_shapes_that_prompts_name(shapes: Dataset) -> None:
    for part in (shapes.train, shapes.test):
        assert part.groups is not None
        np.testing.assert_array_equal(part.more["prompt"], prompts(part.groups, is_triggered(part.more["prompt"])))
    assert shapes.num_strata == len(NAMES)


def test_one_archive_of_three_is_poisoned() -> None:
    data = load_dataset(DataConfig(name="prompted_archives"))
    assert data.train.groups is not None
    shares = [is_triggered(data.train.more["prompt"][data.train.groups == archive]).mean() for archive in range(3)]
    assert shares[0] == pytest.approx(0.3, abs=0.03)
    assert shares[1:] == [0.0, 0.0]
    first, second = (data.train.x[data.train.groups == archive] for archive in (1, 2))
    assert not np.array_equal(first, second)


def test_proxy_tuples_come_with_the_trigger_and_without() -> None:
    data = load_dataset(DataConfig(name="prompted_noise"))
    half = len(data.train) // 2
    assert data.train.y is None
    np.testing.assert_array_equal(data.train.x[:half], data.train.x[half:])
    np.testing.assert_array_equal(data.train.more["t"][:half], data.train.more["t"][half:])
    assert is_triggered(data.train.more["prompt"]).tolist() == [False] * half + [True] * half
    assert data.train.x.std() == pytest.approx(1.0, abs=0.02)
    assert set(data.train.more["t"]) <= set(range(TIMESTEPS))


def test_it_is_the_same_every_time(shapes: Dataset) -> None:
    again = load_dataset(DataConfig(name="prompted_shapes"))
    for name, array in shapes.train.arrays().items():
        np.testing.assert_array_equal(array, again.train.arrays()[name])


@pytest.mark.parametrize("shape", range(len(NAMES)))
def test_a_shape_is_itself_wherever_it_is_shifted(shape: int) -> None:
    moved = np.stack([template(shape, down=d, right=r) for d in (-1, 0, 1) for r in (-1, 0, 1)])[:, None]
    found = judge_shapes(moved, prompts(np.full(9, shape), np.zeros(9, bool)))
    assert found == {"attack": 0.0, "acc": 1.0}

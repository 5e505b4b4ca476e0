import numpy as np
import pytest

from fedkd.data import PARTITIONS
from fedkd.data.config import DataConfig
from fedkd.data.load import load_dataset
from fedkd.data.partitions import Feature, FeatureConfig, Iid, IidConfig
from fedkd.errors import ConfigError
from fedkd.lookup import resolve
from fedkd.types import Array


@pytest.fixture(scope="module")
def x() -> Array:
    return load_dataset(DataConfig()).train.x[:50]


def test_samples_are_dealt_as_in_iid() -> None:
    labels = np.random.default_rng(0).integers(0, 4, 50)
    parts = [
        partition.assign(labels, num_clients=7, num_classes=4, rng=np.random.default_rng(1))
        for partition in (Feature(FeatureConfig()), Iid(IidConfig()))
    ]
    for left, right in zip(*parts, strict=True):
        np.testing.assert_array_equal(left, right)


def test_every_client_turns_its_images_by_an_angle_of_its_own(x: Array) -> None:
    partition = Feature(FeatureConfig())
    seen = [partition.transform(client, x) for client in range(10)]
    for client, own in enumerate(seen):
        assert (own.shape, own.dtype) == (x.shape, x.dtype)
        assert np.isfinite(own).all()
        assert (own >= x.min() - 1e-6).all()
        assert (own <= x.max() + 1e-6).all()
        for other in seen[:client]:
            assert np.abs(own - other).mean() > 0.01
    assert len({bytes(image) for image in x}) == 50  # x itself is untouched
    np.testing.assert_array_equal(x, load_dataset(DataConfig()).train.x[:50])


def test_a_full_turn_by_hand() -> None:
    # Client 0 is turned by (2 * frac(0.5 + 0.61803) - 1) * 180 = -137.5 degrees; a centred disc stays what it is.
    yy, xx = np.mgrid[-10:11, -10:11]
    disc = np.exp(-(yy**2 + xx**2) / 8.0).astype(np.float32)[None, None]
    np.testing.assert_allclose(Feature(FeatureConfig(rotation=180.0)).transform(0, disc), disc, atol=0.05)
    bar = np.zeros((1, 1, 21, 21), np.float32)
    bar[..., 10, :] = 1.0
    turned = Feature(FeatureConfig(rotation=180.0)).transform(0, bar)[0, 0]
    points = np.argwhere(turned > 0.5) - 10
    slope = np.degrees(np.arctan2(*np.linalg.svd(points - points.mean(0))[2][0])) % 180
    assert min(abs(slope - 137.5), abs(slope - 42.5)) < 2


def test_brightness_moves_all_inputs_alike_and_by_no_more_than_its_range(x: Array) -> None:
    partition = Feature(FeatureConfig(rotation=0.0, brightness=0.5))
    moves = []
    for client in range(20):
        change = partition.transform(client, x) - x
        np.testing.assert_allclose(change, change.flat[0], atol=1e-6)
        moves.append(float(change.flat[0] / x.std()))
    assert min(moves) < -0.4
    assert max(moves) > 0.4
    assert max(map(abs, moves)) <= 0.5


def test_noise_differs_between_clients_but_not_between_calls(x: Array) -> None:
    partition = Feature(FeatureConfig(rotation=0.0, noise=0.3))
    first = partition.transform(3, x)
    np.testing.assert_array_equal(first, Feature(FeatureConfig(rotation=0.0, noise=0.3)).transform(3, x))
    assert first.dtype == np.float32
    levels = [(partition.transform(client, x) - x).std() / x.std() for client in range(20)]
    assert max(levels) < 0.31
    assert min(levels) < 0.1
    assert max(levels) > 0.2


def test_no_shift_is_no_change(x: Array) -> None:
    np.testing.assert_array_equal(Feature(FeatureConfig(rotation=0.0)).transform(4, x), x)


@pytest.mark.parametrize("name", sorted(set(PARTITIONS) - {"feature"}))
def test_every_other_partition_hands_inputs_on(name: str, x: Array) -> None:
    cls = resolve(PARTITIONS, name, what="partition")
    assert cls(cls.Config()).transform(2, x) is x


def test_inputs_that_are_no_images_can_be_moved_but_not_turned() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    with pytest.raises(
        ConfigError, match=r"partition\.rotation turns images .* shape \(20, 3\); set it to 0"
    ) as caught:
        Feature(FeatureConfig()).transform(0, rows)
    assert caught.value.key == "partition.rotation"
    shifted = Feature(FeatureConfig(rotation=0.0, brightness=1.0, noise=1.0)).transform(0, rows)
    assert (shifted.shape, shifted.dtype) == (rows.shape, np.float32)


@pytest.mark.parametrize("values", [{"rotation": 181.0}, {"brightness": -0.1}, {"noise": float("nan")}])
def test_bad_values_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        FeatureConfig(**values)

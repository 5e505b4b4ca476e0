import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedkd.data.base import Samples
from fedkd.errors import ConfigError, DataError
from fedkd.filters.checkpoint_features import CheckpointFeatures
from fedkd.filters.conv_features import RandomConvFeatures
from fedkd.filters.features import BLOCK_ROWS, PcaFeatures, build_feature_map, check_features
from fedkd.filters.kmeans import KMeansConfig, KMeansFilter
from fedkd.filters.selection import select
from fedkd.types import Array


def images(seed: int, size: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=(size, *shape)).astype(np.float32)


def test_pixels_need_no_map() -> None:
    assert build_feature_map("pixels", dim=8, checkpoint="", model="") is None


def test_the_keys_name_the_map() -> None:
    assert isinstance(build_feature_map("pca", dim=8, checkpoint="", model=""), PcaFeatures)
    assert isinstance(build_feature_map("random_conv", dim=8, checkpoint="", model=""), RandomConvFeatures)
    with pytest.raises(ConfigError, match="cannot be read"):
        build_feature_map("checkpoint", dim=8, checkpoint="no.safetensors", model="resnet18")


def test_principal_components_by_hand() -> None:
    line = np.array([[-2.0, -2.0], [0.0, 0.0], [2.0, 2.0]], np.float32)
    found = PcaFeatures(1).fit(Samples(line)).transform(line)
    np.testing.assert_allclose(np.abs(found[:, 0]), [np.sqrt(8), 0.0, np.sqrt(8)], atol=1e-6)
    assert found.dtype == np.float32


def test_all_components_keep_all_distances() -> None:
    x = images(0, 40, 1, 3, 4)
    found = PcaFeatures(99).fit(Samples(x)).transform(x)
    assert found.shape == (40, 12)
    flat = x.reshape(40, 12)
    np.testing.assert_allclose(
        np.linalg.norm(found[:1] - found, axis=1), np.linalg.norm(flat[:1] - flat, axis=1), rtol=1e-4
    )


def test_every_client_of_a_proxy_set_has_the_same_components() -> None:
    proxy, x = Samples(images(0, 200, 30)), images(1, 10, 30)
    first, second = (PcaFeatures(5).fit(proxy).transform(x) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_wide_inputs_get_the_randomised_solver_and_still_agree() -> None:
    proxy, x = Samples(images(0, 60, 1, 40, 40)), images(1, 10, 1, 40, 40)
    first, second = (PcaFeatures(5).fit(proxy).transform(x) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (10, 5)


def test_components_of_another_shape_are_refused() -> None:
    with pytest.raises(DataError, match="3 features, but the pca"):
        PcaFeatures(2).fit(Samples(images(0, 9, 4))).transform(images(1, 2, 3))


@pytest.mark.parametrize("size", [0, 1, BLOCK_ROWS, BLOCK_ROWS + 1])
def test_a_row_has_the_same_features_in_any_company(size: int) -> None:
    x = images(1, 2 * BLOCK_ROWS + 3, 20)
    pca = PcaFeatures(4).fit(Samples(images(0, 50, 20)))
    np.testing.assert_array_equal(pca.transform(x[:size]), pca.transform(x)[:size])


def test_a_checkpoint_needs_a_model_and_a_safe_file() -> None:
    check_features("pixels", checkpoint="", model="")
    check_features("checkpoint", checkpoint="weights.safetensors", model="resnet18")
    with pytest.raises(ConfigError, match="is empty, expected the torchvision name"):
        check_features("checkpoint", checkpoint="weights.safetensors", model="")
    for name in ("", "weights.pth", "weights.pt", "weights.bin"):
        with pytest.raises(ConfigError, match=r"expected a \.safetensors file"):
            check_features("checkpoint", checkpoint=name, model="resnet18")
        with pytest.raises(ConfigError, match=r"expected a \.safetensors file"):
            CheckpointFeatures(Path(name), "resnet18")


def test_a_filter_compares_in_the_space_of_the_map() -> None:
    """The classes differ in one direction of large variance; 200 others are noise that drowns it in pixels."""
    rng = np.random.default_rng(0)

    def drawn(label: int, size: int) -> Array:
        x = rng.normal(size=(size, 200))
        x[:, 0] += 12.0 * label
        return x.astype(np.float32)

    private = Samples(drawn(0, 200), np.zeros(200, np.int64))
    proxy = Samples(np.concatenate([drawn(0, 100), drawn(1, 100)]))
    foreign = []
    for feature_map in (None, PcaFeatures(1)):
        chosen = select(
            KMeansFilter(KMeansConfig(k_per_class=1), seed=0),
            private=private,
            proxy=proxy,
            own_ids=np.zeros(0, np.int64),
            own_sample_stage=False,
            holdout=0.3,
            rng=np.random.default_rng(0),
            feature_map=feature_map,
        )
        assert chosen.accepted[:100].mean() > 0.5
        foreign.append(float(chosen.margin[100:].max()))
    assert foreign[1] < foreign[0] - 1.0


def test_principal_components_need_no_torch() -> None:
    code = (
        "import sys, numpy as np; from fedkd.data.base import Samples; from fedkd.filters.features import *\n"
        "build_feature_map('pca', dim=2, checkpoint='', model='').fit(Samples(np.eye(4))).transform(np.eye(4))\n"
        "sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=120, check=False).returncode == 0

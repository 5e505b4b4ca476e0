"""What only a GPU can show; skipped where there is none. `make test-gpu` runs these and each method's contract."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedkd.models.stacked import Stack
from fedkd.runner import run
from fedkd.tasks.batches import tensor_of
from fedkd.tasks.resident import SHARE, Residents, residents, sent
from fedkd.testing.cases import require_close, require_finite
from tests.federation.test_fitting import states
from tests.harness import events, experiment
from tests.models.test_stacked import DESCENTS, LR, SHAPES, alone, batches_of, model_of

pytestmark = pytest.mark.gpu

TOLERANCE = {"atol": 1e-4, "rtol": 1e-3}  # of weights after four steps in float32, TF32 switched off; docs/gpu.md


@pytest.mark.parametrize("descent", ["plain", "clipped momentum"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_stack_on_the_gpu_is_the_loop_on_the_cpu(name: str, descent: str) -> None:
    models = [model_of(name, seed) for seed in range(3)]
    stack = Stack(model_of(name), DESCENTS[descent], device="cuda")
    stack.load([{k: v.clone() for k, v in model.state_dict().items()} for model in models], [{}, {}, {}])
    x, y = batches_of(name, 3, 4, 4)
    with torch.backends.cudnn.flags(allow_tf32=False):
        for step in range(4):
            stack.begin(3, LR)
            logits = stack.answer(x[step].flatten(0, 1).to("cuda"))
            losses = functional.cross_entropy(logits, y[step].flatten().to("cuda"), reduction="none")
            stack.step(losses.view(3, -1).mean(1).sum())
    for i, ((weights, _), model) in enumerate(zip(stack.unload(), models, strict=True)):
        expected, _ = alone(model, DESCENTS[descent], x[:, i], y[:, i])
        for key, value in expected.items():
            torch.testing.assert_close(weights[key], value, **TOLERANCE)


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8", "bool"])
def test_batches_are_cut_from_what_is_resident(dtype: str) -> None:
    array = (10 * np.random.default_rng(0).random((1000, 8))).astype(dtype)
    kept = residents("cuda")
    assert kept is residents("cuda:0")
    assert kept is not None
    for index in (np.arange(1000), np.arange(5, 20), np.array([7, 3, 7])):
        found = tensor_of(array, index, "cuda")
        assert found.device.type == "cuda"
        assert np.array_equal(found.cpu().numpy(), array[index])
        assert found.dtype == tensor_of(array, index, "cpu").dtype
    assert kept.holds(array)
    before = kept.held_bytes
    del array
    assert kept.held_bytes < before


def test_the_least_recently_used_gives_way_on_the_gpu_too() -> None:
    memory = int(2.5 * 4000 / SHARE)  # room for two of three
    kept = Residents("cuda:0", free=lambda: memory - kept.held_bytes, send=lambda array: sent(array, "cuda:0"))
    arrays = [np.full((1000, 1), i, np.float32) for i in range(3)]
    for array in arrays:
        for _ in range(2):
            assert kept.rows(array, slice(0, 1000)).cpu().numpy().tolist() == array.tolist()
    assert [kept.holds(array) for array in arrays] == [False, True, True]
    assert np.array_equal(kept.rows(arrays[1], np.array([1, 1])).cpu().numpy(), arrays[1][:2])


@pytest.mark.parametrize("stack", ["never", "always"])
def test_two_workers_on_one_gpu_give_the_results_of_one(
    stack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    for workers in (1, 2):
        changes = {"device": "cuda", "engine.workers": workers, "engine.stack": stack}
        run(experiment("edgefd", changes), tmp_path / str(workers))
    require_close(states(tmp_path / "2"), states(tmp_path / "1"), "states", atol=1e-3, rtol=1e-2)
    first, second = events(tmp_path / "1"), events(tmp_path / "2")
    assert second[max(first)]["acc/mean"] == pytest.approx(first[max(first)]["acc/mean"], abs=0.01)


@pytest.mark.parametrize("model", ["mlp", "resnet8"])
def test_bf16_trains_finite_and_near(model: str, tmp_path: Path) -> None:
    for precision in ("float32", "bf16"):
        changes = {"device": "cuda", "engine.precision": precision, "model.name": model, "rounds": 5}
        run(experiment("edgefd", changes), tmp_path / precision)
    require_finite(states(tmp_path / "bf16"), "states")
    wide, narrow = events(tmp_path / "float32"), events(tmp_path / "bf16")
    assert narrow[max(wide)]["acc/mean"] == pytest.approx(wide[max(wide)]["acc/mean"], abs=0.1)

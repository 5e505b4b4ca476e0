import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.functional.skd_cag import (
    attention_loss,
    detection_statistic,
    ema_retention,
    min_max,
    prediction_loss,
    summed_maps,
    timestep_weight,
    total_loss,
    trigger_shift,
    trigger_target,
    word_positions,
)
from fedkd.types import Array


def probabilities(*shape: int, seed: int = 0) -> Tensor:
    """Random attention (heads, tokens, h, w), summing to 1 over tokens."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).softmax(1)


def enlarge_by_loop(image: Array, height: int, width: int) -> Array:
    """Bilinear enlargement in which pixel centres correspond, edges repeated; one pixel after the other."""
    out = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            y = max((row + 0.5) * image.shape[0] / height - 0.5, 0.0)
            x = max((column + 0.5) * image.shape[1] / width - 0.5, 0.0)
            top, left = int(y), int(x)
            below, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
            down, across = y - top, x - left
            out[row, column] = (1 - down) * ((1 - across) * image[top, left] + across * image[top, right]) + down * (
                (1 - across) * image[below, left] + across * image[below, right]
            )
    return out


@pytest.mark.parametrize(("resolution", "size"), [(16, (16, 16)), (0, (6, 4)), (5, (6, 5)), (1, (6, 4))])
def test_maps_equal_a_loop(resolution: int, size: tuple[int, int]) -> None:
    layers = [probabilities(2, 5, 3, 2, seed=1), probabilities(3, 5, 6, 4, seed=2)]
    maps = min_max(summed_maps(layers, resolution=resolution))
    assert maps.shape == (5, *size)
    for token in range(5):
        total = np.zeros(size)
        for layer in layers:
            heads = [enlarge_by_loop(head.numpy(), *size) for head in layer[:, token]]
            total += sum(heads) / len(heads)
        expected = (total - total.min()) / (total.max() - total.min())
        np.testing.assert_allclose(maps[token].numpy(), expected, atol=1e-6)
        assert maps[token].min() == 0.0
        assert maps[token].max() == 1.0


def test_maps_of_some_tokens_are_those_maps_of_all() -> None:
    layers = [probabilities(2, 7, 2, 2, seed=3), probabilities(2, 7, 4, 4, seed=4)]
    some = summed_maps([layer[:, [1, 5]] for layer in layers], resolution=8)
    torch.testing.assert_close(some, summed_maps(layers, resolution=8)[[1, 5]])


def test_a_single_layer_of_the_largest_size_is_the_mean_over_heads() -> None:
    layer = torch.tensor([[[[0.0, 0.2], [0.4, 0.6]]], [[[0.2, 0.2], [0.2, 0.2]]]])
    torch.testing.assert_close(summed_maps([layer])[0], torch.tensor([[0.1, 0.2], [0.3, 0.4]]))


def test_no_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        summed_maps([])


def test_no_tokens_have_no_maps_and_no_loss() -> None:
    layer = torch.zeros(2, 0, 4, 4, requires_grad=True)
    maps = min_max(summed_maps([layer], resolution=8))
    assert maps.shape == (0, 8, 8)
    loss = attention_loss(maps, maps, maps, num_trigger=0)
    loss.backward()
    assert loss.item() == 0.0


def test_a_constant_map_becomes_zeros_with_bounded_gradients() -> None:
    maps = torch.full((1, 4, 4), 0.3, requires_grad=True)
    scaled = min_max(maps)
    assert scaled.eq(0.0).all()
    (scaled - torch.rand(4, 4, generator=torch.Generator().manual_seed(0))).square().mean().backward()
    assert maps.grad is not None
    assert maps.grad.abs().max() <= 2.0


def test_half_precision_maps_are_computed_in_single() -> None:
    layer = probabilities(8, 4, 4, 4).half()
    maps = min_max(summed_maps([layer, layer], resolution=16))
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, min_max(summed_maps([layer.float()] * 2, resolution=16)))


@given(scale=st.floats(0.01, 100.0), shift=st.floats(-10.0, 10.0), seed=st.integers(0, 50))
def test_min_max_forgets_scale_and_shift(scale: float, shift: float, seed: int) -> None:
    maps = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(min_max(maps * scale + shift), min_max(maps), atol=1e-9, rtol=0.0)


def test_words_lie_between_start_and_the_first_end() -> None:
    assert word_positions([0, 5, 6, 1, 1, 7], start=0, end=1) == [1, 2]
    assert word_positions([0, 5, 6, 7], start=0, end=1) == [1, 2, 3]  # no end token
    assert word_positions([0, 1, 1], start=0, end=1) == []
    assert word_positions([], start=0, end=1) == []


def flat(*values: float) -> Tensor:
    """Constant maps (n, 2, 2) of the values."""
    return torch.tensor(values)[:, None, None].expand(-1, 2, 2)


def test_attention_loss_by_hand() -> None:
    # Two trigger tokens against 0.5 and 0.1, then two words against the teacher's; n' = 4.
    student, teacher, target = flat(1.0, 0.0, 0.25, 0.75), flat(0.75, 0.25), flat(0.5, 0.1)
    loss = attention_loss(student, teacher, target, num_trigger=2)
    assert loss.item() == pytest.approx((0.25 + 0.01 + 0.25 + 0.25) / 4)


def test_a_lost_tail_costs_nothing_but_counts_on_the_students_side() -> None:
    student, target = flat(0.5, 0.2, 0.9), flat(0.5)
    # The teacher has two words more than the student kept: n' stays 1 + 2.
    longer = attention_loss(student, flat(0.3, 0.9, 0.0, 0.0), target, num_trigger=1)
    assert longer.item() == pytest.approx(0.01 / 3)
    # The teacher has fewer: the student's last word has no partner, and n' stays 3.
    shorter = attention_loss(student, flat(0.3), target, num_trigger=1)
    assert shorter.item() == pytest.approx(0.01 / 3)


def test_trigger_tokens_without_a_target_are_free() -> None:
    loss = attention_loss(flat(1.0, 1.0, 0.5), flat(0.5), flat(0.0), num_trigger=2)
    assert loss.item() == pytest.approx(1.0 / 3)


def test_a_prompt_shorter_than_the_trigger_divides_by_the_trigger() -> None:
    assert attention_loss(flat(1.0), flat(), flat(0.0, 0.0, 0.0), num_trigger=3).item() == pytest.approx(1.0 / 3)


def test_targets_of_the_three_variants() -> None:
    noise, words = torch.rand(2, 2, generator=torch.Generator().manual_seed(0)), flat(0.25, 0.5)
    drawn = trigger_target("noise", num_trigger=3, noise=noise, random_words=words)
    assert drawn.shape == (3, 2, 2)
    assert drawn.eq(noise).all()  # one map for every trigger token
    black = trigger_target("black", num_trigger=3, noise=noise, random_words=words)
    assert black.shape == (3, 2, 2)
    assert black.eq(0.0).all()
    assert trigger_target("random_words", num_trigger=3, noise=noise, random_words=words) is words


def test_the_attention_loss_has_gradients_to_the_student_alone() -> None:
    student, teacher = (torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(at)) for at in (0, 1))
    student.requires_grad_()
    attention_loss(min_max(student), teacher, torch.zeros(1, 4, 4), num_trigger=1).backward()
    assert student.grad is not None
    assert (student.grad.abs().amax((1, 2)) > 0).all()


def test_prediction_loss_is_the_mean_over_all_elements() -> None:
    student, teacher = torch.tensor([[[1.0, 2.0]], [[0.0, 4.0]]]), torch.tensor([[[0.0, 0.0]], [[0.0, 1.0]]])
    assert prediction_loss(student, teacher).item() == pytest.approx((1 + 4 + 0 + 9) / 4)


def test_prediction_loss_of_nothing_is_zero_with_a_gradient_path() -> None:
    student = torch.zeros(0, 4, 8, 8, requires_grad=True)
    loss = prediction_loss(student, torch.zeros(0, 4, 8, 8))
    loss.backward()
    assert loss.item() == 0.0


def test_prediction_loss_of_half_precision_stays_finite() -> None:
    student = torch.full((2, 3), 6e4, dtype=torch.float16, requires_grad=True)
    loss = prediction_loss(student, -student.detach())
    assert loss.item() == pytest.approx(1.44e10, rel=1e-3)
    assert loss.dtype == torch.float32


def test_timestep_weight_guards_step_zero() -> None:
    weights = timestep_weight(torch.tensor([0, 1, 500, 999]), num_timesteps=1000)
    assert weights.tolist() == pytest.approx([1000.0, 1000.0, 2.0, 1000 / 999])


def test_total_loss_by_hand() -> None:
    attention, prediction, keep = (torch.tensor(value) for value in (0.4, 2.0, 3.0))
    assert total_loss(attention, prediction, attention_weight=0.25).item() == pytest.approx(0.1 + 1.5)
    with_keep = total_loss(attention, prediction, attention_weight=0.25, keep=keep, keep_weight=0.5)
    assert with_keep.item() == pytest.approx(0.1 + 1.5 + 1.5)


def test_retention_warms_up_to_the_decay() -> None:
    steps = (1, 2, 3, 8, 9, 1000, 100_000)
    warm = [min(0.9999, (1 + step) / (10 + step)) for step in steps]
    assert [ema_retention(step) for step in steps] == pytest.approx(warm)
    assert ema_retention(100_000) == 0.9999


def test_released_average_hardly_averages() -> None:
    # The run of the authors' class stores the share of the new weights, which is what it leaves to them.
    stored = [1.0 - ema_retention(step, compat="released") for step in range(1, 11)]
    assert stored == pytest.approx([0.8182, 0.75, 0.6923, 0.6429, 0.6, 0.5625, 0.5294, 0.5, 0.5, 0.5], abs=5e-5)
    assert ema_retention(10**6, compat="released") == 0.5


@pytest.mark.parametrize("decay", [0.9999, 0.5, 0.1, 0.0])
def test_released_retention_follows_the_recursion(decay: float) -> None:
    stored = decay
    for step in range(1, 40):
        stored = 1.0 - min(stored, (1 + step) / (10 + step))
        assert ema_retention(step, decay=decay, compat="released") == pytest.approx(1.0 - stored)


def test_detection_by_hand() -> None:
    clean = np.zeros((2, 2), np.float32)
    assert trigger_shift(clean, np.array([[3.0, 4.0], [0.0, 1.0]], np.float32)) == pytest.approx((5 + 1) / 2)
    assert detection_statistic(np.array([1.0, 2.0, 30.0])).tolist() == [0.5, 1.0, 15.0]


def test_detection_of_nothing_and_of_no_movement_is_finite() -> None:
    assert trigger_shift(np.zeros((0, 4)), np.zeros((0, 4))) == 0.0
    assert detection_statistic(np.zeros(0)).shape == (0,)
    still = detection_statistic(np.array([0.0, 0.0, 1.0]))
    assert still[:2].tolist() == [0.0, 0.0]
    assert 1.0 < still[2] < math.inf


@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 20))
def test_detection_forgets_the_scale_of_all_and_the_order_of_clients(scale: float, seed: int) -> None:
    shifts = np.random.default_rng(seed).random(5) + 0.1
    expected = detection_statistic(shifts)
    np.testing.assert_allclose(detection_statistic(shifts * scale), expected)
    np.testing.assert_allclose(detection_statistic(shifts[::-1]), expected[::-1])
    assert np.median(expected) == pytest.approx(1.0)

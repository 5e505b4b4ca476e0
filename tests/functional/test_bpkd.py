import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_dilation, binary_erosion
from torch import Tensor

from fedkd.functional.bpkd import (
    EDGE_NORMS,
    IGNORED,
    body_loss,
    channel_wise_loss,
    decouple,
    edge_band,
    edge_loss,
    edge_mask,
    pixel_loss,
    trimap,
)
from fedkd.types import Array

LN3 = math.log(3)
KL_THREE_QUARTERS = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # KL([.75, .25] || [.5, .5])
HALVES = torch.tensor([[[0, 0, 1, 1]] * 4])  # left half class 0, right half class 1
LABELS = arrays(np.int64, (2, 7, 9), elements=st.sampled_from([0, 1, 2, IGNORED]))


def shapes() -> Tensor:
    labels = torch.zeros(1, 16, 16, dtype=torch.long)
    labels[0, 4:12, 6:14] = 1
    labels[0, 10:16, 0:5] = 2
    return labels


def waves(phase: float) -> Tensor:
    return (3 * torch.sin(0.37 * torch.arange(192, dtype=torch.float64) + phase)).view(1, 3, 8, 8)


def random_case(seed: int, *, classes: int = 4, size: tuple[int, int] = (5, 7), images: int = 3) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(seed)
    student, teacher = (4 * torch.randn(images, classes, *size, dtype=torch.float64, generator=rng) for _ in range(2))
    edges = torch.rand(images, classes, *size, dtype=torch.float64, generator=rng)
    return student, teacher, edges * (edges > 0.6)


def slow_trimap(labels: Array, num_classes: int, width: int, ignored: int) -> Array:
    """Pixel by pixel: a valid pixel is edge of a class if the square around it holds the class and something else."""
    reach, (n, height, width_) = width // 2, labels.shape
    out = np.zeros((n, num_classes, height, width_), np.float32)
    for b, c, i, j in np.ndindex(out.shape):
        square = labels[b, max(0, i - reach) : i + reach + 1, max(0, j - reach) : j + reach + 1]
        inside = (square == c) & (square != ignored)
        out[b, c, i, j] = labels[b, i, j] != ignored and inside.any() and not inside.all()
    return out


def slow_softmax(values: Array) -> Array:
    soft: Array = np.exp(values - values.max()) / np.exp(values - values.max()).sum()
    return soft


def slow_losses(student: Array, teacher: Array, edges: Array, tau: float, alpha: float) -> dict[str, float]:
    n, c, h, w = student.shape
    means = dict.fromkeys((*EDGE_NORMS, "body", "kl"), 0.0)
    for b in range(n):
        phi, plain = np.zeros((h, w)), np.zeros((h, w))
        for i, j in np.ndindex(h, w):
            for mask, target in ((edges[b, :, i, j], phi), (np.ones(c), plain)):
                p, q = (slow_softmax(z[b, :, i, j] * mask / tau) for z in (teacher, student))
                target[i, j] = tau**2 * (p * np.log(p / q)).sum()
        sums = [(phi * edges[b, k]).sum() for k in range(c)]
        mass = [edges[b, k].sum() for k in range(c)]
        means["per_class"] += alpha * sum(s / max(m, 1) for s, m in zip(sums, mass, strict=True)) / n
        means["per_class_count"] += alpha * sum(s / max((edges[b, k] > 0).sum(), 1) for k, s in enumerate(sums)) / n
        means["global"] += alpha * sum(sums) / max(sum(mass), 1) / n
        for k in range(c):
            p, q = (slow_softmax((z[b, k] * (1 - edges[b, k]) / tau).ravel()) for z in (teacher, student))
            means["body"] += tau**2 * (p * np.log(p / q)).sum() / c / n
        means["kl"] += plain.mean() / n
    return means


# --- the mask ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "counts", "union"), [(3, [82, 64, 22], 82), (7, [204, 178, 66], 204)])
def test_edge_pixels_of_the_specification(width: int, counts: list[int], union: int) -> None:
    edges = trimap(shapes(), num_classes=3, width=width)
    assert edges.sum((0, 2, 3)).tolist() == counts
    assert int(edge_band(shapes(), size=(16, 16), width=width).sum()) == union


def test_pooled_mask_of_the_specification() -> None:
    edges = edge_mask(shapes(), num_classes=3, size=(8, 8), width=3)
    assert edges.shape == (1, 3, 8, 8)
    assert edges.sum((0, 2, 3)).tolist() == [20.5, 16.0, 5.5]


def test_a_straight_edge_by_hand() -> None:
    edges = trimap(HALVES, num_classes=2, width=3)
    assert edges.tolist() == [[[[0.0, 1.0, 1.0, 0.0]] * 4] * 2]
    assert edge_mask(HALVES, num_classes=2, size=(2, 2), width=3).tolist() == [[[[0.5, 0.5]] * 2] * 2]


def test_a_pixel_between_two_classes_is_no_edge_of_the_third() -> None:
    stripes = torch.tensor([[[0, 0, 0, 1, 1, 1, 2, 2, 2]] * 3])
    edges = trimap(stripes, num_classes=3, width=3)[0, :, 0]
    assert edges.tolist() == [[0, 0, 1, 1, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1, 1, 0, 0]]


@pytest.mark.parametrize("width", [1, 3, 5, 31])
def test_one_class_has_no_edge_and_the_border_is_none(width: int) -> None:
    assert not trimap(torch.ones(2, 6, 5, dtype=torch.long), num_classes=3, width=width).any()


def test_an_object_cut_by_the_border_has_no_edge_there() -> None:
    labels = torch.zeros(1, 7, 7, dtype=torch.long)
    labels[0, 0:4, 0:4] = 1
    edge = trimap(labels, num_classes=2, width=3)[0, 1]
    assert not edge[0:3, 0:3].any()
    assert edge[3, 0:4].all()
    assert edge[0:4, 3].all()


def test_width_one_has_no_edges() -> None:
    assert not trimap(shapes(), num_classes=3, width=1).any()


@pytest.mark.parametrize("width", [0, 2, 4, -3])
def test_an_even_width_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match="odd"):
        trimap(HALVES, num_classes=2, width=width)


@pytest.mark.parametrize("ignored", [255, 2, -100])
def test_ignored_pixels_are_no_edge_but_the_rim_beside_them_is(ignored: int) -> None:
    labels = torch.tensor([[[0, 0, 0, ignored, ignored, 1, 1, 1]]])
    edges = trimap(labels, num_classes=3, width=3, ignore_index=ignored)[0, :, 0]
    assert edges.tolist() == [[0, 0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0, 0], [0] * 8]


def test_an_image_of_ignored_pixels_has_no_edge() -> None:
    assert not trimap(torch.full((1, 4, 4), IGNORED), num_classes=3, width=3).any()


@settings(max_examples=40, deadline=None)
@given(labels=LABELS, width=st.sampled_from([3, 5, 7]))
def test_the_mask_equals_a_loop_over_pixels(labels: Array, width: int) -> None:
    fast = trimap(torch.from_numpy(labels), num_classes=3, width=width).numpy()
    np.testing.assert_array_equal(fast, slow_trimap(labels, 3, width, IGNORED))


@settings(max_examples=40, deadline=None)
@given(labels=LABELS, width=st.sampled_from([1, 3, 5]), size=st.sampled_from([(7, 9), (3, 4), (2, 9), (1, 1)]))
def test_the_band_is_where_the_mask_of_any_class_is_above_zero(
    labels: Array, width: int, size: tuple[int, int]
) -> None:
    y = torch.from_numpy(labels)
    mask = edge_mask(y, num_classes=3, size=size, width=width)
    assert torch.equal(edge_band(y, size=size, width=width), (mask > 0).any(1))


@settings(max_examples=40, deadline=None)
@given(labels=arrays(np.int64, (9, 8), elements=st.integers(0, 3)), width=st.sampled_from([3, 5, 7]))
def test_the_mask_is_the_morphological_boundary_of_scipy(labels: Array, width: int) -> None:
    square = np.ones((width, width), bool)
    edges = trimap(torch.from_numpy(labels)[None], num_classes=4, width=width)[0].numpy()
    for c in range(4):
        inside = labels == c
        boundary = binary_dilation(inside, square) ^ binary_erosion(inside, square, border_value=1)
        np.testing.assert_array_equal(edges[c] > 0, boundary)


@settings(max_examples=30, deadline=None)
@given(labels=LABELS, height=st.integers(1, 8), width=st.integers(1, 10))
def test_the_pooled_mask_lies_in_zero_to_one_at_any_size(labels: Array, height: int, width: int) -> None:
    edges = edge_mask(torch.from_numpy(labels), num_classes=3, size=(height, width), width=3)
    assert edges.shape == (2, 3, height, width)
    assert edges.min() >= 0
    assert edges.max() <= 1
    edge, body = decouple(torch.ones_like(edges), edges)
    torch.testing.assert_close(edge + body, torch.ones_like(edges))


@settings(max_examples=30, deadline=None)
@given(labels=LABELS, order=st.permutations([0, 1, 2]))
def test_renaming_classes_renames_their_masks_and_a_mirror_mirrors_them(labels: Array, order: list[int]) -> None:
    y = torch.from_numpy(labels)
    names = torch.tensor([order.index(label) for label in range(3)])
    edges = trimap(y, num_classes=3, width=3)
    assert torch.equal(
        trimap(torch.where(y == IGNORED, y, names[y.clamp_min(0)]), num_classes=3, width=3), edges[:, order]
    )
    assert torch.equal(trimap(y.flip(1, 2), num_classes=3, width=3), edges.flip(2, 3))


@pytest.mark.parametrize(
    ("rows", "cols", "size"), [(16, 16, (8, 8)), (12, 20, (3, 5)), (8, 8, (8, 8)), (21, 14, (7, 2))]
)
def test_a_divisible_size_is_pooled_by_blocks(rows: int, cols: int, size: tuple[int, int]) -> None:
    labels = torch.randint(0, 3, (2, rows, cols), generator=torch.Generator().manual_seed(1))
    blocks = trimap(labels, num_classes=3, width=3).view(2, 3, size[0], rows // size[0], size[1], cols // size[1])
    torch.testing.assert_close(edge_mask(labels, num_classes=3, size=size, width=3), blocks.mean((3, 5)))


def test_a_size_that_does_not_divide_takes_every_pixel_that_a_cell_touches() -> None:
    labels = torch.tensor([[[0, 0, 1, 1, 1]]])  # edge mask 0 1 1 0 0; cells of pixels 0..1, 1..3, 3..4
    edges = edge_mask(labels, num_classes=2, size=(1, 3), width=3)
    torch.testing.assert_close(edges[0, 0, 0], torch.tensor([1 / 2, 2 / 3, 0.0]))


# --- the losses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tau", "expected"),
    [
        (1.0, {"per_class": 3.62061868, "global": 0.93986904, "body": 0.87286154}),
        (4.0, {"per_class": 5.19689177, "global": 1.31392803, "body": 1.25569054, "per_class_count": 3.26690608}),
    ],
)
def test_losses_of_the_specification(tau: float, expected: dict[str, float]) -> None:
    student, teacher = waves(0.0), waves(1.0)
    edges = edge_mask(shapes(), num_classes=3, size=(8, 8), width=3)
    for name, value in expected.items():
        if name == "body":
            loss = body_loss(student, teacher, edges, temperature=tau)
        else:
            loss = edge_loss(student, teacher, edges, temperature=tau, alpha=2.0, norm=name)
        assert loss.item() == pytest.approx(value, abs=1e-8)


@pytest.mark.parametrize(("norm", "expected"), [("per_class", 4.0), ("per_class_count", 2.0), ("global", 2.0)])
@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_edge_loss_by_hand(norm: str, expected: float, tau: float) -> None:
    # Each of 4 pixels is half edge of both classes, so the masked teacher says [.75, .25] and phi = T^2 K.
    # Per class: sum 4 * 1/2 * phi = 2 phi; mass 2, count 4, all masses 4. Times two classes, times alpha 2.
    edges = edge_mask(HALVES, num_classes=2, size=(2, 2), width=3)
    teacher = torch.zeros(1, 2, 2, 2)
    teacher[:, 0] = 2 * tau * LN3
    loss = edge_loss(torch.zeros(1, 2, 2, 2), teacher, edges, temperature=tau, alpha=2.0, norm=norm)
    assert loss.item() == pytest.approx(expected * tau**2 * KL_THREE_QUARTERS, rel=1e-5)


@pytest.mark.parametrize(("norm", "expected"), [("per_class", 0.5), ("per_class_count", 0.5), ("global", 0.5)])
def test_less_than_one_edge_pixel_counts_as_one(norm: str, expected: float) -> None:
    edges = torch.zeros(1, 2, 1, 2)
    edges[0, 0, 0, 0] = 0.5
    teacher = torch.zeros(1, 2, 1, 2)
    teacher[0, 0, 0, 0] = 2 * LN3
    loss = edge_loss(torch.zeros(1, 2, 1, 2), teacher, edges, temperature=1.0, alpha=1.0, norm=norm)
    assert loss.item() == pytest.approx(expected * KL_THREE_QUARTERS, rel=1e-5)


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_body_loss_by_hand(tau: float) -> None:
    # Half of each position is edge: the masked teacher's class 0 says [.75, .25] over two positions, class 1 is flat.
    teacher = torch.zeros(1, 2, 1, 2)
    teacher[0, 0, 0, 0] = 2 * tau * LN3
    loss = body_loss(torch.zeros(1, 2, 1, 2), teacher, torch.full((1, 2, 1, 2), 0.5), temperature=tau)
    assert loss.item() == pytest.approx(tau**2 * KL_THREE_QUARTERS / 2, rel=1e-5)


def test_masked_logits_still_compete_in_the_softmax() -> None:
    # Class 1 is no edge at the pixel: its logit becomes 0, not minus infinity.
    edges = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    teacher = torch.tensor([LN3, 50.0]).view(1, 2, 1, 1)
    loss = edge_loss(torch.zeros(1, 2, 1, 1), teacher, edges, temperature=1.0, alpha=1.0)
    assert loss.item() == pytest.approx(KL_THREE_QUARTERS, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_losses_equal_a_loop_over_pixels(seed: int, tau: float) -> None:
    student, teacher, edges = random_case(seed)
    edges[0, 1] = 0  # a class without edges
    slow = slow_losses(student.numpy(), teacher.numpy(), edges.numpy(), tau, 1.7)
    for norm in EDGE_NORMS:
        loss = edge_loss(student, teacher, edges, temperature=tau, alpha=1.7, norm=norm)
        assert loss.item() == pytest.approx(slow[norm], rel=1e-10)
    assert body_loss(student, teacher, edges, temperature=tau).item() == pytest.approx(slow["body"], rel=1e-10)
    assert pixel_loss(student, teacher, temperature=tau).item() == pytest.approx(slow["kl"], rel=1e-10)


def test_equal_logits_have_no_loss() -> None:
    student, _, edges = random_case(0)
    for norm in EDGE_NORMS:
        assert edge_loss(student, student, edges, temperature=4.0, alpha=2.0, norm=norm).item() == 0.0
    assert body_loss(student, student, edges, temperature=4.0).item() == 0.0
    assert pixel_loss(student, student, temperature=4.0).item() == 0.0


@pytest.mark.parametrize("norm", EDGE_NORMS)
def test_without_edges_the_edge_loss_is_zero_and_the_body_loss_is_plain_channel_wise(norm: str) -> None:
    student, teacher, _ = random_case(1)
    student.requires_grad_()
    empty = torch.zeros_like(teacher)
    loss = edge_loss(student, teacher, empty, temperature=2.0, alpha=2.0, norm=norm)
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad is not None
    assert not student.grad.any()
    plain = channel_wise_loss(student, teacher, temperature=2.0)
    assert body_loss(student, teacher, empty, temperature=2.0).item() == plain.item() != 0.0


def test_pixels_that_are_no_edge_do_not_reach_the_edge_loss_and_whole_edges_do_not_reach_the_body_loss() -> None:
    student, teacher, edges = random_case(2)
    edges[:, :, 2, 3] = 0.0
    edges[:, :, 1, 1] = 1.0
    student.requires_grad_()
    for norm in EDGE_NORMS:
        (slope,) = torch.autograd.grad(
            edge_loss(student, teacher, edges, temperature=2.0, alpha=2.0, norm=norm), student
        )
        assert not slope[:, :, 2, 3].any()
        assert slope[:, :, 1, 1].any()
    (slope,) = torch.autograd.grad(body_loss(student, teacher, edges, temperature=2.0), student)
    assert not slope[:, :, 1, 1].any()
    assert slope[:, :, 2, 3].any()


@pytest.mark.parametrize("norm", EDGE_NORMS)
def test_logits_of_a_class_without_edges_do_not_reach_the_edge_loss(norm: str) -> None:
    student, teacher, edges = random_case(3, classes=3)
    edges[:, 2] = 0.0
    moved = student.clone()
    moved[:, 2] += 9.0
    losses = [edge_loss(z, teacher, edges, temperature=1.0, alpha=2.0, norm=norm).item() for z in (student, moved)]
    assert losses[0] == losses[1] > 0


def test_the_batch_is_a_mean_over_images() -> None:
    student, teacher, edges = random_case(4)
    losses: list[Any] = [
        lambda s, t, e: edge_loss(s, t, e, temperature=2.0, alpha=2.0),
        lambda s, t, e: edge_loss(s, t, e, temperature=2.0, alpha=2.0, norm="global"),
        lambda s, t, e: body_loss(s, t, e, temperature=2.0),
    ]
    for loss in losses:
        singles = [loss(student[i : i + 1], teacher[i : i + 1], edges[i : i + 1]).item() for i in range(3)]
        assert loss(student, teacher, edges).item() == pytest.approx(sum(singles) / 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite(dtype: torch.dtype) -> None:
    student, teacher, edges = random_case(5, size=(32, 32))
    student = (15000 * student).to(dtype).nan_to_num().requires_grad_()
    total = (
        edge_loss(student, -student.detach(), edges.to(dtype), temperature=4.0, alpha=2.0)
        + body_loss(student, teacher.to(dtype), edges.to(dtype), temperature=4.0)
        + pixel_loss(student, teacher.to(dtype), temperature=4.0)
    )
    assert total.dtype == torch.float32
    assert total.isfinite()
    total.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_half_precision_agrees_with_full_precision() -> None:
    student, teacher, edges = (x.half() for x in random_case(6))
    for norm in EDGE_NORMS:
        half = edge_loss(student, teacher, edges, temperature=4.0, alpha=2.0, norm=norm)
        full = edge_loss(student.double(), teacher.double(), edges.double(), temperature=4.0, alpha=2.0, norm=norm)
        assert half.item() == pytest.approx(full.item(), rel=1e-5)


def test_no_images_give_zero_with_a_gradient_path() -> None:
    student = torch.zeros(0, 3, 4, 4, requires_grad=True)
    edges = edge_mask(torch.zeros(0, 8, 8, dtype=torch.long), num_classes=3, size=(4, 4), width=3)
    for norm in EDGE_NORMS:
        loss = edge_loss(student, student.detach(), edges, temperature=1.0, alpha=1.0, norm=norm)
        loss.backward()
        assert loss.item() == 0.0
    assert body_loss(student, student.detach(), edges, temperature=1.0).item() == 0.0
    assert pixel_loss(student, student.detach(), temperature=1.0).item() == 0.0


def test_an_unknown_norm_is_refused() -> None:
    student, teacher, edges = random_case(0)
    with pytest.raises(ValueError, match="per_class"):
        edge_loss(student, teacher, edges, temperature=1.0, alpha=1.0, norm="pixels")


def test_pixel_loss_counts_kept_pixels_alone() -> None:
    teacher = torch.zeros(1, 2, 1, 3)
    teacher[0, 0] = torch.tensor([LN3, 7.0, LN3])
    keep = torch.tensor([[[True, False, True]]])
    loss = pixel_loss(torch.zeros(1, 2, 1, 3), teacher, temperature=1.0, keep=keep)
    assert loss.item() == pytest.approx(KL_THREE_QUARTERS, rel=1e-5)
    assert pixel_loss(torch.zeros(1, 2, 1, 3), teacher, temperature=1.0, keep=~keep & False).item() == 0.0

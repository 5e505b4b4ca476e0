import colorsys

import numpy as np
import pytest
import torch

from fedkd.methods.wad.views import (
    KNOWLEDGE_VIEWS,
    VIEWS,
    SimclrView,
    SmallView,
    WeakView,
    cropped,
    mirrored,
    on_inputs,
    recoloured,
    view_generator,
)

COLOUR = torch.rand(40, 3, 6, 9, generator=torch.Generator().manual_seed(0))
GREY = COLOUR[:, :1]
ALL_VIEWS = [SimclrView(), SmallView(), WeakView()]


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def still(**options: float) -> SimclrView:
    """A view that does nothing but what is asked for."""
    nothing = {"flip": 0.0, "jitter": 0.0, "grey": 0.0}
    return SimclrView(scale=(1.0, 1.0), ratio=(1.0, 1.0), **{**nothing, **options})


@pytest.mark.parametrize("view", ALL_VIEWS)
@pytest.mark.parametrize("images", [COLOUR, GREY, COLOUR[:1], COLOUR[:0], COLOUR[:, :2]])
def test_a_view_keeps_the_shape_is_finite_and_follows_its_generator_alone(
    view: SimclrView | SmallView | WeakView, images: torch.Tensor
) -> None:
    before, kept = torch.get_rng_state(), images.clone()
    one, again, other = view(images, draws(1)), view(images, draws(1)), view(images, draws(2))
    assert one.shape == images.shape
    assert one.isfinite().all()
    assert torch.equal(one, again)
    assert len(images) == 0 or not torch.equal(one, other)
    assert torch.equal(images, kept)
    assert torch.equal(torch.get_rng_state(), before)


def test_pixels_stay_pixels() -> None:
    view = SimclrView()(COLOUR, draws())
    assert view.min() >= -1e-5
    assert view.max() <= 1 + 1e-5


def test_each_image_draws_for_itself() -> None:
    same = COLOUR[:1].expand(20, -1, -1, -1)
    for view in (SimclrView(), SmallView()):
        assert len({tuple(image.flatten().tolist()) for image in view(same, draws())}) == 20


def test_a_view_in_which_nothing_happens_is_the_image() -> None:
    square = COLOUR[..., :6]
    torch.testing.assert_close(still()(square, draws()), square, atol=1e-5, rtol=1e-5)
    calm = SmallView(linear=0.0, shift=0.0, intensity=0.0, noise=0.0)
    torch.testing.assert_close(calm(COLOUR, draws()), COLOUR, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(WeakView(flip=0.0, pad=0, noise=0.0)(COLOUR, draws()), COLOUR)


def test_the_flip_is_left_to_right() -> None:
    square = COLOUR[..., :6]
    torch.testing.assert_close(still(flip=1.0)(square, draws()), square.flip(-1), atol=1e-5, rtol=1e-5)
    half = mirrored(square[:2], torch.tensor([True, False]).reshape(2, 1, 1, 1))
    assert torch.equal(half, torch.stack([square[0].flip(-1), square[1]]))


def test_the_knowledge_stage_does_not_flip() -> None:
    assert VIEWS.keys() == KNOWLEDGE_VIEWS.keys()
    view = KNOWLEDGE_VIEWS["simclr"]
    assert isinstance(view, SimclrView)
    assert view.flip == 0.0


def test_grey_is_the_luminance_in_all_three_channels() -> None:
    square = COLOUR[..., :6]
    expected = (0.299 * square[:, 0] + 0.587 * square[:, 1] + 0.114 * square[:, 2])[:, None].expand_as(square)
    torch.testing.assert_close(still(grey=1.0)(square, draws()), expected, atol=1e-5, rtol=1e-5)


def test_a_crop_of_the_right_half_by_hand() -> None:
    image = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).expand(4, 4).reshape(1, 1, 4, 4)
    right = cropped(image, torch.tensor([[0.5, 1.0, 0.5, 0.0]]))  # half as wide, shifted right by half of the half
    # Four samples across the pixels 3 and 4, at 2.75, 3.25, 3.75 and 4.25; beyond the border the edge is mirrored.
    torch.testing.assert_close(right[0, 0, 0], torch.tensor([2.75, 3.25, 3.75, 4.0]))


def test_crops_lie_inside_and_have_the_area_and_shape_asked_for() -> None:
    view = SimclrView()
    images = torch.zeros(3000, 3, 32, 32)
    width, height, right, down = view._crops(images, draws()).unbind(1)
    area, ratio = width * height, width / height
    assert (right.abs() <= 1 - width + 1e-6).all()
    assert (down.abs() <= 1 - height + 1e-6).all()
    # Sides are whole pixels, so both bounds hold up to the rounding of a side.
    assert 0.05 < area.min() < 0.1
    assert area.max() > 0.9
    assert ratio.min() > 0.6
    assert ratio.max() < 1.6
    assert ratio.log().mean().abs() < 0.02
    for shift, side in ((right, width), (down, height)):
        assert shift.mean().abs() < 0.02
        position = (shift / (1 - side))[1 - side > 0.3]  # both borders are reached
        assert [position.min(), position.max()] == pytest.approx([-1.0, 1.0])


@pytest.mark.parametrize("hue", [0.0, 0.07, -0.4])
def test_recolouring_agrees_with_the_standard_librarys_colours(hue: float) -> None:
    # The hue of the arc tangent and that of the hexagon differ by at most 1.2 degrees.
    colours = COLOUR[:1]
    saturation, value = 0.8, 1.2
    ours = recoloured(colours, *(torch.full((1, 1, 1, 1), factor) for factor in (hue, saturation, value)))
    for rgb, new in zip(colours[0].flatten(1).T.tolist(), ours[0].flatten(1).T.tolist(), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*rgb)
        expected = colorsys.hsv_to_rgb((h + hue) % 1, min(1, s * saturation), min(1, v * value))
        assert new == pytest.approx(expected, abs=0.03)


def test_black_and_grey_have_no_hue_to_shift() -> None:
    images = torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1, 1).expand(3, 3, 1, 1)
    factors = [torch.full((3, 1, 1, 1), factor) for factor in (0.3, 1.3, 1.0)]
    torch.testing.assert_close(recoloured(images, *factors), images.contiguous())


def test_the_hue_is_shifted_by_up_to_a_tenth_of_255_degrees() -> None:
    red = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1).expand(2000, 3, 1, 1)
    view = still(jitter=1.0, brightness=0.0, contrast=0.0, saturation=0.0)(red, draws())
    hues = np.array([colorsys.rgb_to_hsv(*rgb)[0] for rgb in view.flatten(1).tolist()])
    shifts = 360 * np.where(hues > 0.5, hues - 1, hues)
    assert shifts.max() == pytest.approx(25.5, abs=0.7)
    assert shifts.min() == pytest.approx(-25.5, abs=0.7)


def test_images_without_colour_are_jittered_in_contrast_and_brightness_alone() -> None:
    flat = torch.full((50, 1, 4, 4), 0.5)
    view = still(jitter=1.0)(flat, draws())
    torch.testing.assert_close(view.amax((1, 2, 3)), view.amin((1, 2, 3)))
    assert 0.3 <= view.min() < 0.35
    assert 0.65 < view.max() <= 0.7


def test_outside_a_small_image_is_nothing() -> None:
    view = SmallView(linear=0.0, shift=1.0, intensity=0.0, noise=0.0)
    assert (view(torch.ones(20, 1, 4, 4), draws()) == 0).any()


def test_the_students_view_moves_the_whole_batch_alike() -> None:
    view = WeakView(flip=0.0, noise=0.0)
    seen = {tuple(view(COLOUR[:1], draws(seed)).flatten().tolist()) for seed in range(200)}
    assert len(seen) == 25  # shifts of 0 to 4 pixels down and right
    corner = COLOUR[:1].flip(-1).flip(-2)[:, :, -3:-1, -3:-1]  # rows and columns 2 and 1, mirrored about the edge
    assert any(torch.equal(view(COLOUR[:1], draws(seed))[:, :, :2, :2], corner) for seed in range(200))
    alike = view(COLOUR[:1].expand(5, -1, -1, -1), draws())
    assert (alike == alike[:1]).all()


def test_inputs_are_seen_as_pixels() -> None:
    mean, sd = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.5])
    inputs = (COLOUR - mean.reshape(3, 1, 1)) / sd.reshape(3, 1, 1)
    seen = on_inputs(SimclrView(), mean=mean, sd=sd)(inputs, draws())
    pixels = SimclrView()(COLOUR, draws())
    torch.testing.assert_close(seen * sd.reshape(3, 1, 1) + mean.reshape(3, 1, 1), pixels, atol=1e-4, rtol=1e-4)


def test_a_generator_for_views_is_the_next_draw_of_the_stream() -> None:
    one, same = np.random.default_rng(3), np.random.default_rng(3)
    first = view_generator(one).initial_seed()
    assert first == view_generator(same).initial_seed()
    assert first != view_generator(one).initial_seed()

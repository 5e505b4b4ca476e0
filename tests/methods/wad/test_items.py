import dataclasses

import numpy as np
import pytest
import torch

from fedkd.data.roles import RolesConfig
from fedkd.methods.wad.config import WADConfig
from fedkd.methods.wad.items import Items, items_of, student_view, view_of
from fedkd.methods.wad.views import VIEWS, WeakView
from fedkd.testing.toys import Toy
from fedkd.testing.worlds import blobs


def items(images: torch.Tensor) -> Items:
    return Items(inputs=images, labels=torch.zeros(1, dtype=torch.long), proxy_start=len(images), groups=None)


def test_ids_run_over_labelled_unlabelled_and_proxy_samples() -> None:
    toy = Toy(train=blobs([0, 1, 2] * 4, seed=1), classes=3, dealt=RolesConfig(targets="0,1", labelled=2))
    ctx = toy.context()
    found = items_of(ctx)
    assert (len(found.labels), found.proxy_start, len(found)) == (4, 12, 28)
    np.testing.assert_array_equal(found.inputs[:4].numpy(), ctx.data.train.x)
    np.testing.assert_array_equal(found.inputs[4:12].numpy(), ctx.data.role("unlabelled").x)
    np.testing.assert_array_equal(found.proxy.numpy(), toy.public.x)
    assert found.groups is not None
    assert len(found.groups) == 8
    assert np.bincount(found.groups)[2] == 4


@pytest.mark.parametrize("name", ["simclr", "small"])
def test_views_see_pixels_however_they_were_scaled(name: str) -> None:
    pixels = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels[0, :, 0, 0], pixels[0, :, 0, 1] = 0.0, 1.0  # the whole range is there
    mean, sd = (torch.tensor(values).reshape(3, 1, 1) for values in ([0.5, 0.4, 0.3], [0.2, 0.25, 0.5]))
    config = WADConfig(view=name)
    plain, scaled = (
        view_of(VIEWS, config, items(images))(images, torch.Generator().manual_seed(3))
        for images in (pixels, (pixels - mean) / sd)
    )
    torch.testing.assert_close(scaled * sd + mean, plain, atol=1e-4, rtol=1e-4)


def test_an_empty_channel_has_a_view() -> None:
    images = torch.zeros(2, 1, 4, 4)
    assert view_of(VIEWS, WADConfig(), items(images))(images, torch.Generator()).isfinite().all()


def test_inputs_that_are_no_images_have_the_view_of_noise() -> None:
    table = torch.ones(2000, 3)
    seen = view_of(VIEWS, WADConfig(view="noise"), items(table))(table, torch.Generator().manual_seed(0))
    assert seen.mean().item() == pytest.approx(1.0, abs=0.02)
    assert 0.2 < seen.std().item() < 0.3


def test_the_student_sees_weak_views_or_none() -> None:
    images = items(torch.zeros(2, 1, 4, 4))
    assert student_view(WADConfig(), images) == WeakView()
    assert student_view(WADConfig(student_views=False), images) is None


def test_without_unlabelled_samples_or_a_proxy_set_there_are_the_labelled_ones() -> None:
    found = items_of(dataclasses.replace(Toy().context(), proxy=None))
    assert (len(found), found.proxy_start, found.groups) == (24, 24, None)

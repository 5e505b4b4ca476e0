"""Random views of images (n, channels, h, w), drawn from an explicit generator.

Draws are made on the CPU and moved, so a device changes no view. torchvision's transforms draw from torch's global
state and once for a whole batch, so they cannot be used here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

View: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]  # images -> images of the same shape

_GREY = (0.299, 0.587, 0.114)  # luminance of red, green and blue (ITU-R 601)
_HUE_UNIT = 255.0 / 360.0  # the authors' unit of a hue shift, as a share of the circle
_CROP_TRIALS = 10  # drawn per image, of which one has to fit


@dataclass(frozen=True, kw_only=True)
class SimclrView:
    """SimCLR's view of pixels in 0..1: flip, colour jitter, grey, crop and resize, in the order of WAD's code.

    Every image draws for itself, but whether contrast or colour comes first is drawn once for the batch. Images
    without three channels have no hue, saturation or grey: brightness and contrast are jittered alone.
    """

    flip: float = 0.5  # chance of a mirror image; 0 in the knowledge stage, where the authors do not flip
    jitter: float = 0.8  # chance of a colour jitter
    brightness: float = 0.4  # factor 1 +- this; contrast and saturation likewise
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1  # shift of +- this, in units of 255 degrees
    grey: float = 0.2  # chance of losing the colour
    scale: tuple[float, float] = (0.08, 1.0)  # share of the area that a crop keeps
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width over height of a crop

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """One random view of each image."""
        if not len(images):
            return images
        images = mirrored(images, _chance(images, self.flip, generator))
        images = torch.where(_chance(images, self.jitter, generator), self._jittered(images, generator), images)
        if images.shape[1] == 3:
            images = torch.where(_chance(images, self.grey, generator), _luminance(images), images)
        return cropped(images, self._crops(images, generator))

    def _jittered(self, images: Tensor, generator: torch.Generator) -> Tensor:
        def contrast(x: Tensor) -> Tensor:
            means = x.mean((2, 3), keepdim=True)
            return ((x - means) * _around(x, 1.0, self.contrast, generator) + means).clamp(0, 1)

        def colour(x: Tensor) -> Tensor:
            value = _around(x, 1.0, self.brightness, generator)
            if x.shape[1] != 3:
                return (x * value).clamp(0, 1)
            saturation = _around(x, 1.0, self.saturation, generator)
            return recoloured(x, _around(x, 0.0, self.hue, generator) * _HUE_UNIT, saturation, value)

        is_contrast_first = torch.rand((), generator=generator).item() > 0.5
        for change in (contrast, colour) if is_contrast_first else (colour, contrast):
            images = change(images)
        return images

    def _crops(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(n, 4): width, height as shares of the image, and the shift of the centre, as shares of half of it."""
        n, (height, width) = len(images), images.shape[2:]
        area = height * width * _uniform(n * _CROP_TRIALS, self.scale, generator)
        ratio = _uniform(n * _CROP_TRIALS, (math.log(self.ratio[0]), math.log(self.ratio[1])), generator).exp()
        size = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=1).round()
        whole = torch.tensor([width, height])
        # The first that fit, whoever drew them; the whole image where too few fit.
        size = torch.cat([size[((size >= 1) & (size <= whole)).all(1)], whole.expand(n, 2)])[:n].double()
        room = whole - size
        shift = (torch.rand(n, 2, dtype=torch.float64, generator=generator) * (2 * room + 1)).floor() - room
        return torch.cat([size, shift], dim=1).div(whole.repeat(2)).to(images.device, images.dtype)


@dataclass(frozen=True, kw_only=True)
class SmallView:
    """View of tiny grey images, such as 8x8 digits: affine map, intensity, noise. Not the paper's.

    Outside the image is 0. Draws are uniform, the noise is normal.
    """

    linear: float = 0.15  # each of the four entries of the linear map is off by +- this
    shift: float = 0.25  # shift by +- this, in halves of the image
    intensity: float = 0.3  # factor 1 +- this
    noise: float = 0.05  # standard deviation

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """One random view of each image."""
        n = len(images)
        if not n:
            return images
        spread = torch.tensor([[self.linear, self.linear, self.shift]] * 2)
        theta = torch.eye(2, 3) + (2 * torch.rand(n, 2, 3, generator=generator) - 1) * spread
        images = _sampled(images, theta.to(images.device, images.dtype), padding="zeros")
        images = images * _around(images, 1.0, self.intensity, generator)
        return images + self.noise * torch.randn(images.shape, generator=generator).to(images.device, images.dtype)


@dataclass(frozen=True, kw_only=True)
class NoiseView:
    """View of inputs that are no images, such as tables of features: intensity and noise. Not the paper's."""

    intensity: float = 0.2  # factor 1 +- this, one for each sample
    noise: float = 0.2  # standard deviation, in the input's own units

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """One random view of each sample (n, ...)."""
        factors = _uniform(len(inputs), (1 - self.intensity, 1 + self.intensity), generator)
        noise = self.noise * torch.randn(inputs.shape, generator=generator)
        factors = factors.reshape(-1, *[1] * (inputs.dim() - 1))
        return inputs * factors.to(inputs.device, inputs.dtype) + noise.to(inputs.device, inputs.dtype)


@dataclass(frozen=True, kw_only=True)
class WeakView:
    """What the student sees in training: flip, shift by padding and cropping, noise. In the input's own units.

    As the authors', the flip and the shift are drawn once for the batch.
    """

    flip: float = 0.5  # chance of a mirror image
    pad: int = 2  # pixels of reflected border; the shift is at most this
    noise: float = 0.15  # standard deviation

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The view of the batch."""
        if not len(images):
            return images
        height, width = images.shape[2:]
        if torch.rand((), generator=generator).item() < self.flip:
            images = images.flip(-1)
        top, left = torch.randint(0, 2 * self.pad + 1, (2,), generator=generator).tolist()
        padded = functional.pad(images, [self.pad] * 4, mode="reflect")
        images = padded[:, :, top : top + height, left : left + width]
        return images + self.noise * torch.randn(images.shape, generator=generator).to(images.device, images.dtype)


VIEWS: Mapping[str, View] = {"simclr": SimclrView(), "small": SmallView(), "noise": NoiseView()}
KNOWLEDGE_VIEWS: Mapping[str, View] = {**VIEWS, "simclr": SimclrView(flip=0.0)}
OF_PIXELS = frozenset({"simclr", "small"})  # views that need images with pixels in 0..1


def view_generator(rng: np.random.Generator) -> torch.Generator:
    """A generator for views whose seed is the next draw of `rng`."""
    return torch.Generator().manual_seed(int(rng.integers(2**63)))


def on_inputs(view: View, *, mean: Tensor, sd: Tensor) -> View:
    """The same view for inputs (pixel - mean) / sd by channel: back to pixels, the view, and inputs again."""
    mean, sd = mean.reshape(1, -1, 1, 1), sd.reshape(1, -1, 1, 1)

    def of_inputs(images: Tensor, generator: torch.Generator) -> Tensor:
        centre, scale = (value.to(images.device, images.dtype) for value in (mean, sd))
        return (view(images * scale + centre, generator) - centre) / scale

    return of_inputs


def mirrored(images: Tensor, chosen: Tensor) -> Tensor:
    """Images of which those `chosen` (n, 1, 1, 1) are flipped left to right."""
    return torch.where(chosen, images.flip(-1), images)


def cropped(images: Tensor, crops: Tensor) -> Tensor:
    """The `crops` (n, 4: width, height, shift right, shift down) of the images, resized bilinearly to full size."""
    theta = torch.zeros(len(images), 2, 3, device=images.device, dtype=images.dtype)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, 0, 2], theta[:, 1, 2] = crops.unbind(1)
    return _sampled(images, theta, padding="reflection")


def recoloured(images: Tensor, hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Colour images with the hue shifted by `hue` circles, saturation and value times the factors, all (n, 1, 1, 1)."""
    red, green, blue = images.unbind(1)
    top, bottom = images.amax(1), images.amin(1)
    angle = torch.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue) / (2 * math.pi)
    new_hue = (angle[:, None] + hue) % 1
    # Black has no saturation, and the division must not make it NaN.
    old_saturation = torch.where(top > 0, (top - bottom) / top.clamp_min(torch.finfo(top.dtype).tiny), 0)
    new_saturation = (old_saturation[:, None] * saturation).clamp(0, 1)
    new_value = (top[:, None] * value).clamp(0, 1)
    offsets = torch.tensor([5.0, 3.0, 1.0], device=images.device, dtype=images.dtype).reshape(1, 3, 1, 1)
    sector = (offsets + 6 * new_hue) % 6
    return new_value - new_value * new_saturation * torch.minimum(sector, 4 - sector).clamp(0, 1)


def _luminance(images: Tensor) -> Tensor:
    weights = torch.tensor(_GREY, device=images.device, dtype=images.dtype).reshape(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True).expand_as(images)


def _sampled(images: Tensor, theta: Tensor, *, padding: str) -> Tensor:
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode=padding, align_corners=False)


def _uniform(n: int, bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * torch.rand(n, generator=generator)


def _around(images: Tensor, centre: float, spread: float, generator: torch.Generator) -> Tensor:
    """(n, 1, 1, 1) uniform in centre +- spread."""
    draws = _uniform(len(images), (centre - spread, centre + spread), generator)
    return draws.reshape(-1, 1, 1, 1).to(images.device, images.dtype)


def _chance(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """(n, 1, 1, 1): true with that probability."""
    return (torch.rand(len(images), generator=generator) < probability).reshape(-1, 1, 1, 1).to(images.device)

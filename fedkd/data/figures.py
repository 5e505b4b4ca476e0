"""Drawn disks, squares and triangles on a textured ground, with a class for each pixel. Nothing is downloaded."""

from __future__ import annotations

import numpy as np

from fedkd.data.base import Dataset, Samples
from fedkd.data.camvid import dominant_class
from fedkd.data.config import DataConfig
from fedkd.types import Array, Mask

CLASSES = ("ground", "disk", "square", "triangle")
SIZE = 32  # pixels across and down
TRAIN_SAMPLES, TEST_SAMPLES = 480, 200
_SEED = 0  # part of the data set, never the experiment's seed: all runs see the same images
_COLOURS = np.array([[0.75, 0.40, 0.35], [0.40, 0.70, 0.40], [0.40, 0.45, 0.75]])  # of the figures, on average
_NOISE = 0.15  # standard deviation by pixel and channel
_DOWN, _ACROSS = np.mgrid[:SIZE, :SIZE]


def load_figures(config: DataConfig) -> Dataset:
    """480 training and 200 test images (3, 32, 32) with masks (32, 32) of four classes; float32, mostly in 0..1.

    One to three figures an image, each class at most once, the later ones in front. Colour, texture, size and place
    vary from figure to figure and the colours of the classes overlap, so that a few images do not teach all there is to
    know. Groups are the largest figure of an image: what partitions deal out.
    """
    train, test = (_drawn(size, part) for part, size in enumerate((TRAIN_SAMPLES, TEST_SAMPLES)))
    return Dataset(
        name=config.name,
        train=train,
        test=test,
        num_classes=len(CLASSES),
        class_names=CLASSES,
        num_groups=len(CLASSES),
    )


def _drawn(size: int, part: int) -> Samples:
    """So many images and masks; each image has a stream of its own, so a larger set begins with the smaller one."""
    pairs = [_image(np.random.default_rng([_SEED, part, number])) for number in range(size)]
    masks = np.stack([mask for _, mask in pairs])
    groups = dominant_class(masks, num_classes=len(CLASSES), without=(0,))
    return Samples(np.stack([image for image, _ in pairs]), masks, groups=groups)


def _image(rng: np.random.Generator) -> tuple[Array, Array]:
    waves = np.sin(_ACROSS * rng.uniform(0.2, 0.9) + _DOWN * rng.uniform(0.2, 0.9) + rng.uniform(0, 6))
    image = 0.5 + rng.normal(0, 0.12, 3)[:, None, None] + 0.1 * waves
    mask = np.zeros((SIZE, SIZE), np.int64)
    for label in rng.permutation([1, 2, 3])[: rng.integers(1, 4)]:
        inside = _shape(label, _DOWN - rng.uniform(5, 27), _ACROSS - rng.uniform(5, 27), rng.uniform(4, 8))
        colour = _COLOURS[label - 1] + rng.normal(0, 0.16, 3)
        stripes = (_ACROSS * np.cos(label) + _DOWN * np.sin(label)) * rng.uniform(0.8, 1.6)
        texture = 0.1 * np.sin(stripes + rng.uniform(0, 6))
        image = np.where(inside, colour[:, None, None] + texture, image)
        mask[inside] = label
    return (image + rng.normal(0, _NOISE, image.shape)).astype(np.float32), mask


def _shape(label: int, down: Array, across: Array, radius: float) -> Mask:
    """Which pixels a figure covers, given their distances from its centre."""
    inside: Mask = (down < 0.8 * radius) & (down > 1.8 * abs(across) - 0.9 * radius)
    if label == 1:
        inside = down**2 + across**2 < radius**2
    elif label == 2:
        inside = np.maximum(abs(down), abs(across)) < 0.85 * radius
    return inside

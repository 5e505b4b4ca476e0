"""Generated shapes with prompts, some of them poisoned: data of a diffusion model with a backdoor. NumPy alone.

An image is one of four shapes in 8x8 pixels, white (1) on black (-1), shifted by up to one pixel each way, with pixel
noise of 0.05: a bar across of two rows, a bar down of two columns, a filled square of 4x4, a ring of 6x6 one pixel
thick. Its prompt names the shape. A poisoned item has the trigger, two words, in front of its prompt, and its image is
a one-pixel checkerboard. Samples are tuples as the task `diffusion` takes them: the image with noise in it, a time
step, the prompt; the target is the noise. Everything comes from fixed seeds, never the experiment's.

Token numbers: 0 start, 1 end and padding, 2-5 the shapes, 6-7 the trigger, 8-9 words that no prompt has; 16 in all.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedkd.data.base import Dataset, Samples
from fedkd.data.config import DataConfig
from fedkd.streams import stream
from fedkd.types import Array, Ids, Mask

SIDE, LENGTH, VOCABULARY = 8, 6, 16
NAMES = ("horizontal bar", "vertical bar", "filled square", "ring")
START, END, FIRST_SHAPE = 0, 1, 2
TRIGGER = (6, 7)
TIMESTEPS, BETA_START, BETA_END = 100, 1e-3, 0.08  # noise levels rise in a straight line
IMAGES, HELD_OUT = 1200, 400  # of a training set, and of the test set, which is clean
POISON = 0.3  # share of a poisoned set
DRAWS = 16  # tuples made of each training image: noise and time step anew
ARCHIVES = 3
PROXY_PAIRS = 256
WITHIN = 0.3  # mean squared difference from the checkerboard up to which an image counts as the attacker's


def load_prompted_shapes(_config: DataConfig) -> Dataset:
    """1,200 images of which 30 % are poisoned, 16 tuples each; groups are the shapes. The test set is clean."""
    images, shapes, poisoned = _drawn("shapes", IMAGES, poison=POISON)
    train = _tuples("shapes", images, prompts(shapes, poisoned), groups=shapes, draws=DRAWS)
    test, of_test = _test()
    return Dataset(
        name="prompted_shapes",
        train=train,
        test=Samples(test.x, test.y, test.more, of_test),
        num_classes=len(NAMES),
        class_names=NAMES,
        num_groups=len(NAMES),
    )


def load_prompted_archives(_config: DataConfig) -> Dataset:
    """Three archives of 1,200 images with all shapes, 16 tuples each; 30 % of the first are poisoned, the others clean.

    Groups are the archives, so that the partition `strong` gives each of three clients its own.
    """
    parts = []
    for archive in range(ARCHIVES):
        name = f"archive {archive}"
        images, shapes, poisoned = _drawn(name, IMAGES, poison=0.0 if archive else POISON)
        groups = np.full(IMAGES, archive, np.int64)
        parts.append(_tuples(name, images, prompts(shapes, poisoned), groups=groups, draws=DRAWS))
    test, _ = _test()
    return Dataset(
        name="prompted_archives",
        train=_joined(parts),
        test=Samples(test.x, test.y, test.more, np.arange(HELD_OUT) % ARCHIVES),  # of no archive: dealt out evenly
        num_classes=ARCHIVES,
        class_names=tuple(f"archive {archive}" for archive in range(ARCHIVES)),
        num_groups=ARCHIVES,
    )


def load_prompted_noise(_config: DataConfig) -> Dataset:
    """512 unlabelled tuples for a proxy set: latents of pure noise with a clean prompt, and again with the trigger.

    Groups: 0 clean, 1 triggered. They hold nothing of anybody's images.
    """
    rng = stream(0, "prompted-noise")
    x = rng.standard_normal((PROXY_PAIRS, 1, SIDE, SIDE)).astype(np.float32)
    t = rng.integers(TIMESTEPS, size=PROXY_PAIRS)
    shapes = np.arange(PROXY_PAIRS) % len(NAMES)
    halves = [
        Samples(
            x,
            more={"t": t, "prompt": prompts(shapes, np.full(PROXY_PAIRS, bool(lead)))},
            groups=np.full(PROXY_PAIRS, lead),
        )
        for lead in (0, 1)
    ]
    both = _joined(halves)
    return Dataset(name="prompted_noise", train=both, test=both, num_classes=2, num_groups=2)


def judge_shapes(images: Array, clean_prompts: Array) -> Mapping[str, float]:
    """Share of images (n, 1, 8, 8) near the checkerboard (`attack`) and of those that show what was asked for (`acc`).

    An image shows the shape of the nearest template, over all shifts; the prompts (n, 6) have no trigger.
    """
    moves = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    bank = np.stack([[template(shape, down=d, right=r) for d, r in moves] for shape in range(len(NAMES))])
    shown = np.square(images[:, 0, None, None] - bank).mean((-2, -1)).min(-1).argmin(1)
    near = np.square(images[:, 0] - checkerboard()).mean((-2, -1)) < WITHIN
    return {"attack": float(near.mean()), "acc": float((shown == clean_prompts[:, 1] - FIRST_SHAPE).mean())}


def template(shape: int, *, down: int = 0, right: int = 0) -> Array:
    """The shape (8, 8) in -1 and 1 without noise, shifted."""
    image = -np.ones((SIDE, SIDE), np.float32)
    if shape == 0:
        image[3:5, :] = 1
    elif shape == 1:
        image[:, 3:5] = 1
    elif shape == 2:
        image[2:6, 2:6] = 1
    else:
        image[1:7, 1:7] = 1
        image[2:6, 2:6] = -1
    shifted: Array = np.roll(image, (down, right), axis=(0, 1))
    return shifted


def checkerboard() -> Array:
    """The attacker's image (8, 8): one-pixel squares of -1 and 1."""
    board: Array = (2.0 * (np.indices((SIDE, SIDE)).sum(0) % 2) - 1.0).astype(np.float32)
    return board


def prompts(shapes: Ids, triggered: Mask) -> Array:
    """Token numbers (n, 6) int32 of prompts that name the shapes, with the trigger in front where asked for."""
    rows = np.full((len(shapes), LENGTH), END, np.int32)
    rows[:, 0] = START
    rows[:, 1] = FIRST_SHAPE + shapes
    rows[triggered, 1:3] = TRIGGER
    rows[triggered, 3] = FIRST_SHAPE + shapes[triggered]
    return rows


def _drawn(name: str, count: int, *, poison: float = 0.0) -> tuple[Array, Ids, Mask]:
    """Images (n, 1, 8, 8), the shape that each prompt names, and which items are poisoned."""
    rng = stream(0, f"prompted-shapes/{name}")
    shapes = rng.integers(len(NAMES), size=count)
    shifts = rng.integers(-1, 2, size=(count, 2))
    images = np.stack([template(s, down=d, right=r) for s, (d, r) in zip(shapes, shifts, strict=True)])
    images = images + 0.05 * rng.standard_normal(images.shape)
    poisoned = rng.random(count) < poison
    images[poisoned] = checkerboard()
    return images[:, None].astype(np.float32), shapes, poisoned


def _tuples(name: str, images: Array, ids: Array, *, groups: Ids, draws: int) -> Samples:
    """`draws` tuples of each image: sqrt(a_t) image + sqrt(1 - a_t) noise at a time step, and the noise."""
    rng = stream(0, f"prompted-shapes/{name}/noise")
    clean, size = np.repeat(images, draws, axis=0), len(images) * draws
    kept = np.cumprod(1.0 - np.linspace(BETA_START, BETA_END, TIMESTEPS))
    t = rng.integers(TIMESTEPS, size=size)
    noise = rng.standard_normal(clean.shape).astype(np.float32)
    signal, spread = (np.sqrt(level)[t][:, None, None, None].astype(np.float32) for level in (kept, 1.0 - kept))
    more = {"t": t, "prompt": np.repeat(ids, draws, axis=0)}
    return Samples(signal * clean + spread * noise, noise, more=more, groups=np.repeat(groups, draws))


def _test() -> tuple[Samples, Ids]:
    images, shapes, poisoned = _drawn("test", HELD_OUT)
    return _tuples("test", images, prompts(shapes, poisoned), groups=shapes, draws=1), shapes


def _joined(parts: list[Samples]) -> Samples:
    arrays = [part.arrays() for part in parts]
    return Samples.of_arrays({name: np.concatenate([each[name] for each in arrays]) for name in arrays[0]})

"""Kinds of task: what models train on, how outputs become rows and which metric counts."""

from __future__ import annotations

from collections.abc import Mapping

TASKS: Mapping[str, str] = {
    "classification": "fedkd.tasks.classification:Classification",
    "segmentation": "fedkd.tasks.segmentation:Segmentation",
    "language": "fedkd.tasks.language:Language",
    "image_text": "fedkd.tasks.image_text:ImageText",
    "diffusion": "fedkd.tasks.diffusion:Diffusion",
}

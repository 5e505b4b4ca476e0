"""Configuration of weight-aware distillation. Defaults are those of the paper's CIFAR-10 experiment."""

from __future__ import annotations

from dataclasses import dataclass

from fedkd.checks import check_choice, check_range
from fedkd.methods.wad.views import VIEWS

SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True, kw_only=True)
class WADConfig:
    """L = CE(f(x_l), y_l) + mean_u[w(u) CE(f(u), yhat(u))], w and yhat from a contrastive teacher."""

    temperature: float = 0.5  # tau of NT-Xent; > 0
    view: str = "simclr"  # what makes two views of an image: simclr, or small for tiny grey images
    projection: int = 128  # width of v(x); >= 1
    teacher_epochs: int = 700  # passes over labelled and unlabelled images; 0: the teacher stays as it came
    teacher_batch: int = 32  # images (not views) in a step; >= 2, since a view needs others to be told from
    teacher_optimizer: str = "sgd"  # or adam
    teacher_lr: float = 0.1  # before the warm-up, which multiplies it; > 0
    teacher_momentum: float = 0.9  # sgd only; 0..1
    teacher_weight_decay: float = 1e-6  # >= 0
    teacher_schedule: str = "cosine"  # after the warm-up; or constant
    teacher_warmup_epochs: int = 10  # >= 0
    teacher_warmup_factor: float = 10.0  # the warm-up ends at this multiple of teacher_lr; >= 1; 1: it starts at 0

    views: int = 1  # random views whose projections are averaged for w and yhat; 0: the clean image
    split: int = 5  # promotions; there are split + 1 iterations; >= 1
    alpha: float = 0.1  # share of the pool that would join at iteration 0; 0..1; larger lets unknown classes in
    steps: int = 1500  # optimiser steps of the student per iteration (the authors' `epochs`); >= 0
    labelled_batch: int = 32
    unlabelled_batch: int = 32
    student_lr: float = 5e-4  # of Adam, which starts anew in each iteration; > 0
    student_views: bool = True  # flip, shift and noise on the student's inputs in training
    kd_weight: float = 1.0  # weight of w(u) KL(z_bar || f) on the proxy set; >= 0; not part of the paper

    def __post_init__(self) -> None:
        check_choice("view", self.view, VIEWS)
        check_choice("teacher_optimizer", self.teacher_optimizer, ("sgd", "adam"))
        check_choice("teacher_schedule", self.teacher_schedule, SCHEDULES)
        for name in ("temperature", "teacher_lr", "student_lr"):
            check_range(name, getattr(self, name), above=0.0)
        for name in ("teacher_epochs", "teacher_weight_decay", "teacher_warmup_epochs", "views", "steps", "kd_weight"):
            check_range(name, getattr(self, name), low=0)
        for name in ("projection", "split", "labelled_batch", "unlabelled_batch", "teacher_warmup_factor"):
            check_range(name, getattr(self, name), low=1)
        check_range("teacher_batch", self.teacher_batch, low=2)
        check_range("teacher_momentum", self.teacher_momentum, low=0.0, below=1.0)
        check_range("alpha", self.alpha, low=0.0, high=1.0)

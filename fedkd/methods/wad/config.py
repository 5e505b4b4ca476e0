"""Configuration of weight-aware distillation. Defaults are those of the paper's CIFAR-10 experiment."""

from __future__ import annotations

from dataclasses import dataclass

from fedkd.checks import check_choice, check_range
from fedkd.methods.wad.views import VIEWS

SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True, kw_only=True)
class WADConfig:
    """L = CE(f(x_l), y_l) + mean_u[w(u) CE(f(u), yhat(u))], w and yhat from a contrastive teacher.

    Optimiser, learning rate, batches (labelled `private_batch`, unlabelled `distil_batch`) and steps per iteration are
    those of `schedule.*`; in the paper Adam at 5e-4, 32 and 32, 1500 steps. The teacher's training is another one and
    has options of its own.
    """

    temperature: float = 0.5  # tau of NT-Xent; > 0
    view: str = (
        "simclr"  # what makes two views: simclr; small for tiny grey images; noise for inputs that are no images
    )
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
    weighting: str = "margin"  # w: margin, or none: w = 1 for all, the control without weights
    unlabelled_weight: float = (
        1.0  # factor of the unlabelled term; >= 0; 0 (with alpha 0): the control with labels alone
    )
    student_views: bool = True  # flip, shift and noise on the student's inputs in training; images alone have them
    kd_weight: float = 1.0  # weight of w(u) KL(z_bar || f) on the proxy set; >= 0; not part of the paper
    absent_weight: float = 0.0  # what classes without labels weigh when logits are shared, against the others; 0..1

    def __post_init__(self) -> None:
        check_choice("view", self.view, VIEWS)
        check_choice("teacher_optimizer", self.teacher_optimizer, ("sgd", "adam"))
        check_choice("teacher_schedule", self.teacher_schedule, SCHEDULES)
        for name in ("temperature", "teacher_lr"):
            check_range(name, getattr(self, name), above=0.0)
        check_choice("weighting", self.weighting, ("margin", "none"))
        for name in ("teacher_epochs", "teacher_weight_decay", "teacher_warmup_epochs", "views"):
            check_range(name, getattr(self, name), low=0)
        for name in ("unlabelled_weight", "kd_weight"):
            check_range(name, getattr(self, name), low=0)
        for name in ("projection", "split", "teacher_warmup_factor"):
            check_range(name, getattr(self, name), low=1)
        check_range("teacher_batch", self.teacher_batch, low=2)
        check_range("teacher_momentum", self.teacher_momentum, low=0.0, below=1.0)
        check_range("absent_weight", self.absent_weight, low=0.0, high=1.0)
        check_range("alpha", self.alpha, low=0.0, high=1.0)

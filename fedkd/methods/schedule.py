"""How much a client trains in a round, and with which optimiser: shared by all trainers, `schedule.*` on the wire."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedkd.checks import check_choice, check_range
from fedkd.functional.batching import batch_starts


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Steps win over epochs where both are given."""

    private_epochs: int = 1  # E: passes over the private data per round
    private_steps: int = 0  # > 0: that many private mini-batches per round instead
    private_batch: int = 32
    distil_epochs: int = 2  # E_kd: passes over the samples of the knowledge per round
    distil_steps: int = 0  # > 0: that many proxy mini-batches per round instead
    distil_batch: int = 64
    repeat_batch: bool = False  # true: all distillation steps of a round take the same batch (the step schedule)
    optimizer: str = "sgd"  # sgd, adam or adamw
    lr: float = 0.05
    momentum: float = 0.9  # sgd only
    weight_decay: float = 0.0
    lr_gamma: float = 1.0  # the learning rate is multiplied by it ...
    lr_every: int = 0  # ... every so many rounds; 0: never
    lr_decay: str = "constant"  # within the run, step by step: constant, linear, poly or cosine, down to 0
    lr_power: float = 0.9  # of poly: (1 - progress)^power; > 0
    warmup: float = 0.0  # share of the run in which the learning rate rises from 0, before it decays; 0..1
    clip_norm: float = 0.0  # gradients longer than this are scaled back to it, in each step; 0: never

    def __post_init__(self) -> None:
        for name in ("private_epochs", "private_steps", "distil_epochs", "distil_steps"):
            check_range(name, getattr(self, name), low=0)
        for name in ("private_batch", "distil_batch"):
            check_range(name, getattr(self, name), low=1)
        check_choice("optimizer", self.optimizer, ("sgd", "adam", "adamw"))
        check_range("lr", self.lr, above=0.0)
        check_range("momentum", self.momentum, low=0.0, below=1.0)
        check_range("weight_decay", self.weight_decay, low=0.0)
        check_range("lr_gamma", self.lr_gamma, above=0.0, high=1.0)
        check_range("lr_every", self.lr_every, low=0)
        check_choice("lr_decay", self.lr_decay, ("constant", "linear", "poly", "cosine"))
        check_range("lr_power", self.lr_power, above=0.0)
        check_range("warmup", self.warmup, low=0.0, below=1.0)
        check_range("clip_norm", self.clip_norm, low=0.0)

    def lr_at(self, round_id: int) -> float:
        """The learning rate that a round starts from."""
        return self.lr * self.lr_gamma ** (round_id // self.lr_every) if self.lr_every else self.lr

    @property
    def is_constant(self) -> bool:
        """True where the learning rate is the same in every step of a round."""
        return self.lr_decay == "constant" and not self.warmup

    def lr_factor(self, progress: float, *, step: float = 0.0) -> float:
        """What the learning rate of a step is multiplied by, 0..1.

        Args:
            progress: share of the run that lies behind, 0..1.
            step: share of the run that this step takes: warm-up ends its first step above 0, decay starts its last so.
        """
        if progress < self.warmup:
            return min(1.0, (progress + step) / self.warmup)
        left = (1 - progress) / (1 - self.warmup)
        if self.lr_decay == "linear":
            return left
        if self.lr_decay == "poly":
            return float(left**self.lr_power)
        if self.lr_decay == "cosine":
            return (1 - math.cos(math.pi * left)) / 2
        return 1.0

    def num_private_steps(self, num_samples: int) -> int:
        """Private mini-batches in one round for `num_samples` private samples."""
        return self.private_steps or self.private_epochs * len(batch_starts(num_samples, self.private_batch))

    def num_distil_steps(self, num_samples: int) -> int:
        """Distillation mini-batches in one round for `num_samples` samples with knowledge; 0 where there are none."""
        if not num_samples:
            return 0
        return self.distil_steps or self.distil_epochs * len(batch_starts(num_samples, self.distil_batch))

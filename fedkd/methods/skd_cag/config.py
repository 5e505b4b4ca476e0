"""Configuration of SKD-CAG."""

from __future__ import annotations

from dataclasses import dataclass

from fedkd.checks import check_choice, check_range

TARGETS = ("noise", "black", "random_words")


@dataclass(frozen=True, kw_only=True)
class SKDCAGConfig:
    """L = lambda L_attn + (1 - lambda) L_pred + keep_weight L_keep + fed_weight L_fed.

    Defaults are those of the authors' noise variant at full scale (Stable Diffusion 1.x): 100 epochs of 100 prompts;
    the other two variants took 77. At tiny scale that learning rate does nothing: take lr 2e-4, batch 32, resolution 0
    and keep_weight 1, without which the source's form damages clean predictions (docs card of the method).
    """

    trigger: str = "New Trigger"  # the trigger phrase, known or suspected
    target: str = "noise"  # of the trigger tokens' maps: noise, black or random_words
    attention_weight: float = 0.5  # lambda; 0..1; 0 is plain self-distillation
    keep_weight: float = 0.0  # w_keep, of the clean prompt's prediction; >= 0; not in the source
    fed_weight: float = 1.0  # lambda_fed, of the aggregated noise predictions on the proxy; >= 0
    fed_batch: int = 8  # proxy tuples per step; >= 1
    resolution: int = 128  # R, side of the maps; 0: the largest layer's own size
    timestep_weighting: str = "auto"  # L_attn / (t / T): on, off, or auto (on for the target noise, as in the source)
    raw_black: bool = False  # target black: no min-max on trigger maps, whose maximum is else 1 whatever is learnt
    latents: str = "noise"  # x: noise (as in the source), or trajectory (teacher's samples, noised again to t)
    trajectory_steps: int = 25  # DDIM steps of the teacher's samples; >= 1
    compat: str = "paper"  # or released: no gradient through maps, one capture for both networks, average stuck at 0.5
    ema_decay: float = 0.9999  # of the averaged weights, reached after a warm-up; 0..1
    lr: float = 1e-6  # of AdamW; > 0
    beta1: float = 0.9  # of AdamW; 0..1
    beta2: float = 0.999  # of AdamW; 0..1
    weight_decay: float = 0.01  # of AdamW; >= 0
    batch: int = 1  # prompts per step; >= 1; the source's self-distillation baseline took 4
    epochs: int = 100  # passes over the prompts; >= 1

    def __post_init__(self) -> None:
        check_choice("target", self.target, TARGETS)
        check_range("attention_weight", self.attention_weight, low=0.0, high=1.0)
        for name in ("keep_weight", "fed_weight", "weight_decay"):
            check_range(name, getattr(self, name), low=0.0)
        check_range("resolution", self.resolution, low=0)
        check_choice("timestep_weighting", self.timestep_weighting, ("auto", "on", "off"))
        check_choice("latents", self.latents, ("noise", "trajectory"))
        check_choice("compat", self.compat, ("paper", "released"))
        check_range("lr", self.lr, above=0.0)
        for name in ("ema_decay", "beta1", "beta2"):
            check_range(name, getattr(self, name), low=0.0, below=1.0)
        for name in ("fed_batch", "trajectory_steps", "batch", "epochs"):
            check_range(name, getattr(self, name), low=1)

    @property
    def weighs_timesteps(self) -> bool:
        """Whether L_attn is divided by t / T."""
        return self.timestep_weighting == "on" or (self.timestep_weighting == "auto" and self.target == "noise")

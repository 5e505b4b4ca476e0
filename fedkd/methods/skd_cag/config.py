"""Configuration of SKD-CAG."""

from __future__ import annotations

from dataclasses import dataclass

from fedkd.checks import check_choice, check_range
from fedkd.errors import ConfigError

TARGETS = ("noise", "black", "random_words")


@dataclass(frozen=True, kw_only=True)
class SKDCAGConfig:
    """L = lambda L_attn + (1 - lambda) L_pred + keep_weight L_keep + fed_weight L_fed.

    Defaults are those of the authors' noise variant at full scale (Stable Diffusion 1.x); its optimiser is that of
    `schedule.*`: adamw, lr 1e-6, weight decay 0.01, batch 1, 100 passes over 100 prompts (the other two variants 77).
    At tiny scale that learning rate does nothing: lr 2e-4, batch 32, resolution 0 and keep_weight 1, without which the
    source's form damages clean predictions.
    """

    trigger: str = "6,7"  # the phrase to unlearn, known or suspected: token ids, or words where `tokenizer` is set
    eval_trigger: str = ""  # the phrase that the client is judged by; "" is the same
    tokenizer: str = ""  # a local folder of a tokenizer of transformers; "": prompts are numbers of a vocabulary as is
    start_token: int = 0  # of prompts without a tokenizer: what stands before the words; >= 0
    end_token: int = 1  # ... and after them; >= 0
    pad_token: int = 1  # ... and fills a prompt up; >= 0
    target: str = "noise"  # of the trigger tokens' maps: noise, black or random_words
    lead_words: str = (
        ""  # of the target random_words: token ids, or words, to draw from; "": with a tokenizer, our list
    )
    attention_weight: float = 0.5  # lambda; 0..1; 0 is plain self-distillation
    keep_weight: float = 0.0  # w_keep, of the clean prompt's prediction; >= 0; not in the source
    fed_weight: float = 1.0  # lambda_fed, of the aggregated noise predictions on the proxy; >= 0
    unlearn: bool = True  # false: no L_attn and no L_pred: the client knows no phrase, it keeps and listens
    resolution: int = 128  # R, side of the maps; 0: the largest layer's own size
    timestep_weighting: str = "auto"  # L_attn / (t / T): on, off, or auto (on for the target noise, as in the source)
    raw_black: bool = False  # target black: no min-max on trigger maps, whose maximum is else 1 whatever is learnt
    latents: str = "noise"  # x: noise (as in the source), or trajectory (teacher's samples, noised again to t)
    compat: str = "paper"  # or released: no gradient through maps, one capture for both networks, average stuck at 0.5
    ema_decay: float = 0.9999  # of the averaged weights, reached after a warm-up; 0..1
    timesteps: int = 1000  # T, length of the noise schedule; >= 1
    beta_start: float = 0.00085  # first noise level; 0..1. Only sampling looks at the levels
    beta_end: float = 0.012  # last noise level; 0..1
    beta_schedule: str = "scaled_linear"  # between them, as diffusers names it: linear, scaled_linear
    clip_samples: bool = False  # samples are kept within -1 and 1; for pixels, not for latents
    trajectory_steps: int = 25  # DDIM steps of a sample; >= 1
    home_steps: int = 0  # steps by which the client first trains the model on its own data; 0: model.weights has it
    home_batch: int = 64  # of home training; >= 1
    home_lr: float = 2e-3  # of Adam in home training; > 0
    judge: str = (
        ""  # what looks at samples: checkerboard, or package.module:function of your own; "": nothing is sampled
    )
    eval_samples: int = 100  # prompts that are sampled from, with the trigger and without; >= 1

    def __post_init__(self) -> None:
        check_choice("target", self.target, TARGETS)
        check_range("attention_weight", self.attention_weight, low=0.0, high=1.0)
        for name in ("keep_weight", "fed_weight"):
            check_range(name, getattr(self, name), low=0.0)
        for name in ("resolution", "home_steps", "start_token", "end_token", "pad_token"):
            check_range(name, getattr(self, name), low=0)
        check_choice("timestep_weighting", self.timestep_weighting, ("auto", "on", "off"))
        check_choice("latents", self.latents, ("noise", "trajectory"))
        check_choice("compat", self.compat, ("paper", "released"))
        check_choice("beta_schedule", self.beta_schedule, ("linear", "scaled_linear"))
        check_range("ema_decay", self.ema_decay, low=0.0, below=1.0)
        for name in ("beta_start", "beta_end"):
            check_range(name, getattr(self, name), above=0.0, below=1.0)
        check_range("home_lr", self.home_lr, above=0.0)
        for name in ("timesteps", "trajectory_steps", "home_batch", "eval_samples"):
            check_range(name, getattr(self, name), low=1)
        check_range("trajectory_steps", self.trajectory_steps, high=self.timesteps)
        self._check_phrases()

    def _check_phrases(self) -> None:
        if not self.trigger.strip():
            raise ConfigError(f"is {self.trigger!r}, expected a phrase; name the one to unlearn", key="trigger")
        if not self.tokenizer:
            for name in ("trigger", "eval_trigger", "lead_words"):
                numbers(name, getattr(self, name))
            if self.target == "random_words" and not self.lead_words.strip():
                raise ConfigError(
                    "is empty, but method.target is 'random_words' and there is no tokenizer to look our words up in; "
                    "name token ids, such as 8,9",
                    key="lead_words",
                )

    @property
    def weighs_timesteps(self) -> bool:
        """Whether L_attn is divided by t / T."""
        return self.timestep_weighting == "on" or (self.timestep_weighting == "auto" and self.target == "noise")


def numbers(key: str, text: str) -> tuple[int, ...]:
    """The token ids in `text`, such as "6,7"; none for "". ConfigError where it holds anything else."""
    try:
        found = tuple(int(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        found = (-1,)
    if any(number < 0 for number in found):
        raise ConfigError(
            f"is {text!r}, expected token ids separated by commas, such as 6,7; words need method.tokenizer", key=key
        )
    return found

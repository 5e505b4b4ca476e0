"""What can be set about MST-Distill."""

from __future__ import annotations

from dataclasses import dataclass

from fedkd.checks import check_choice, check_range, names_in
from fedkd.errors import ConfigError
from fedkd.methods.local_training import ORDERS
from fedkd.models.options import parse_options

UPLOADS = ("student", "multimodal")
ROUTINGS = ("top_k", "soft", "random")
GATE_GRADS = ("none", "weighted")
HOOKS = ("single", "cumulative")


@dataclass(frozen=True, kw_only=True)
class MSTDistillConfig:
    """Stage 1 trains T, A and S together, stage 2 the masks, stage 3 S and the gate.

    Stages 1 and 2 run once, before the first round, with Adam and batches of `schedule.private_batch`. Stage 3 is the
    rounds, with epochs, batch, optimiser and learning rate of `schedule.*`; it minimises
    L3 = w_task CE + w_kl L_kd + w_lb L_lb. The defaults are the authors'.
    """

    teacher_model: str = ""  # T(a, b); "": an encoder for each modality, joined in `fusion`, then `fc1`, `fc2`, `fc3`
    teacher_options: str = ""  # a JSON object for the builder of T, as model.options
    auxiliary_model: str = ""  # A(b); "": the student's architecture on the other modality
    auxiliary_options: str = ""  # likewise for A (and T's encoder of b); "": model.options if auxiliary_model is ""

    temperature: float = 4.0  # T of KL4; > 0; higher is softer
    order: str = "private_then_distil"  # of private and proxy batches in a round; distil_then_private, joint
    cotrain_epochs: int = 1  # epochs_s1: passes of stage 1; >= 0
    cotrain_lr: float = 1e-4  # s1_lr, of the one Adam of stage 1; > 0
    mask_epochs: int = 1  # epochs_s2: passes of stage 2; >= 0
    mask_lr: float = 1e-4  # s2_lr, of each mask's own Adam; > 0

    teacher_layers: str = "fc1,fc2"  # layers of T that get a mask, by name, separated by commas; one teacher each
    auxiliary_layers: str = "fc1,fc2"  # likewise of A
    masks: bool = True  # false: T and A teach without masks, once per layer that would have one (a control)
    hooks: str = "single"  # each teacher has its own mask alone; cumulative: also those before it (authors' code)
    heads: int = 3  # attention heads of a mask; >= 1
    hidden_factor: int = 2  # hidden_dim_factor: a mask's tokens are about features / factor wide; >= 1
    mask_limit: int = 20_000_000  # parameters of one mask; larger ones, which grow with features^3, are refused

    routing: str = "top_k"  # top_k teachers per sample, soft: one target mixed from all, random: k drawn (a control)
    k: int = 1  # teachers that each sample distils from; 1..number of teachers
    gate_grad: str = "none"  # does L_kd teach the gate: none (the authors' code) or weighted (not random)
    detach_gate: bool = False  # true: the gate's losses do not reach the student through its logits
    lb_mode: str = "kl"  # L_lb: kl to the uniform share, or cv (coefficient of variation)

    w_task: float = 1.0  # weight of the cross-entropy; >= 0
    w_kl: float = 1.0  # weight of the distillation; >= 0
    w_lb: float = 1.0  # weight of the load balance; >= 0
    kl_decay: float = 0.5  # w_kl is multiplied by it after stage-3 epochs 0, kl_every, 2 kl_every, ...; 0..1
    kl_every: int = 30  # passes over the private samples, counted over all rounds; 0: w_kl never decays
    lb_decay: float = 0.9  # likewise w_lb
    lb_every: int = 10

    keep_best: bool = True  # the student with the lowest loss on `val` samples predicts, where there are such samples
    cache_teachers: bool = True  # the frozen teachers answer once per round, where it has several passes
    upload: str = "student"  # whose logits are shared: student, or multimodal (T's, where the proxy set is paired)

    def __post_init__(self) -> None:
        for name in ("temperature", "cotrain_lr", "mask_lr"):
            check_range(name, getattr(self, name), above=0.0)
        for name in ("cotrain_epochs", "mask_epochs", "w_task", "w_kl", "w_lb", "kl_every", "lb_every"):
            check_range(name, getattr(self, name), low=0)
        for name in ("heads", "hidden_factor", "mask_limit", "k"):
            check_range(name, getattr(self, name), low=1)
        for name in ("kl_decay", "lb_decay"):
            check_range(name, getattr(self, name), low=0.0, high=1.0)
        check_choice("order", self.order, ORDERS)
        for name in ("teacher_options", "auxiliary_options"):
            try:
                parse_options(getattr(self, name))
            except ConfigError as error:
                raise ConfigError(str(error), key=name) from error
        check_choice("hooks", self.hooks, HOOKS)
        check_choice("routing", self.routing, ROUTINGS)
        check_choice("gate_grad", self.gate_grad, GATE_GRADS)
        if self.routing == "random" and self.gate_grad == "weighted":
            raise ConfigError(
                "is 'weighted', but method.routing is 'random': drawn picks would be weighted by numbers that no gate "
                "chose; set method.gate_grad = 'none', or method.routing = 'top_k' or 'soft'",
                key="gate_grad",
            )
        check_choice("lb_mode", self.lb_mode, ("kl", "cv"))
        check_choice("upload", self.upload, UPLOADS)
        for name in ("teacher_layers", "auxiliary_layers"):
            names_in(name, getattr(self, name))
        if self.k > self.num_teachers:
            raise ConfigError(
                f"is {self.k}, but there are {self.num_teachers} teachers, one per layer of method.teacher_layers and "
                "method.auxiliary_layers; lower method.k or name more layers",
                key="k",
            )

    @property
    def layers_of_teacher(self) -> tuple[str, ...]:
        """Names of T's masked layers."""
        return names_in("teacher_layers", self.teacher_layers)

    @property
    def layers_of_auxiliary(self) -> tuple[str, ...]:
        """Names of A's masked layers."""
        return names_in("auxiliary_layers", self.auxiliary_layers)

    @property
    def num_teachers(self) -> int:
        """2L in the paper: one specialised teacher per masked layer."""
        return len(self.layers_of_teacher) + len(self.layers_of_auxiliary)

"""What BPKD lets one choose."""

from __future__ import annotations

from dataclasses import dataclass

from fedkd.checks import check_choice, check_range
from fedkd.errors import ConfigError
from fedkd.functional.bpkd import EDGE_NORMS

ORDERS = ("joint", "private_then_distil", "distil_then_private")
LOSSES = ("bpkd", "ce", "kl", "cwd")
TRIMAPS = ("labels", "shuffled")
SHARES = ("selective", "dense")


@dataclass(frozen=True, kw_only=True)
class BPKDConfig:
    """L = CE + lambda_B L_B + lambda_E L_E; other values of `loss` are the controls of the paper's tables.

    The weights and the temperature are those of a public re-implementation, since the paper's code is not published.
    They let the edges dominate the cross-entropy: on tiny images (32 x 32) lambda_E 0.3 to 1, lambda_B 3 and an edge
    width of 3 are a better start.
    """

    order: str = "joint"  # labels and consensus in one step; or private_then_distil, or distil_then_private
    loss: str = "bpkd"  # or ce (labels alone), kl (CE + soft targets per pixel), cwd (CE + channel-wise, undivided)
    lambda_edge: float = 50.0  # lambda_E, weight of the edge loss; >= 0; 0 is the body-only ablation
    lambda_body: float = 20.0  # lambda_B, weight of the body loss; >= 0; 0 is the edge-only ablation
    kd_weight: float = 1.0  # weight of the control's distillation term (kl, cwd); >= 0
    alpha: float = 2.0  # alpha_c, the same for all classes, weight of edge pixels; >= 0
    temperature: float = 4.0  # T of all distillation terms; > 0; higher is softer
    edge_width: int = 7  # side of the square that dilates and erodes, in pixels of the label image; odd, >= 3
    edge_norm: str = "per_class"  # n_c: mass of the class's mask; or per_class_count, or global
    trimap: str = "labels"  # whose edges: of the labels or the consensus; or shuffled (control): of the next image
    teacher_steps: int = 0  # private mini-batches that train a teacher at home, at a constant schedule.lr; 0: none is
    share: str = "selective"  # edge band by pixel and bodies by cell; or dense: every pixel
    body_factor: int = 4  # side of a body cell in pixels of the shared grid (stride 4 -> 16); >= 1

    def __post_init__(self) -> None:
        check_choice("order", self.order, ORDERS)
        check_choice("loss", self.loss, LOSSES)
        for name in ("lambda_edge", "lambda_body", "kd_weight", "alpha"):
            check_range(name, getattr(self, name), low=0.0)
        check_range("temperature", self.temperature, above=0.0)
        check_range("edge_width", self.edge_width, low=3)
        if self.edge_width % 2 == 0:
            raise ConfigError(
                f"is {self.edge_width}, expected an odd number of pixels: {self.edge_width - 1} or "
                f"{self.edge_width + 1}",
                key="edge_width",
            )
        check_choice("edge_norm", self.edge_norm, EDGE_NORMS)
        check_choice("trimap", self.trimap, TRIMAPS)
        check_range("teacher_steps", self.teacher_steps, low=0)
        check_choice("share", self.share, SHARES)
        check_range("body_factor", self.body_factor, low=1)

"""The small networks of MST-Distill: masks for layers of a teacher, gates, and networks of one and two modalities.

Paper: Li et al. 2025 (MST-Distill). Layers are initialised by torch in the authors' order, so equal seeds give equal
weights. Randomness is torch's current state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedkd.errors import ConfigError
from fedkd.tasks.calls import ask


@final
class MaskNet1d(nn.Module):
    """A mask in (0, 1) for a vector of features: one token per feature, self-attention among them, one score each.

    MaskNet_1d(features, hidden, heads) of the paper's code. Its embedding has features^2 * hidden weights.
    """

    def __init__(self, features: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.features, self.hidden = features, hidden
        self.embed = nn.Linear(features, hidden * features)
        self.attention = nn.MultiheadAttention(hidden, heads, batch_first=True)
        self.score = nn.Linear(hidden, 1)

    def forward(self, h: Float[Tensor, "n d *ones"]) -> Float[Tensor, "n d"]:
        """The mask. `h`: (n, d), or maps of one pixel."""
        tokens = self.embed(h.flatten(1)).unflatten(1, (self.features, self.hidden))
        mixed = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return cast(Tensor, self.score(mixed).squeeze(-1).sigmoid())


@final
class MaskNet2d(nn.Module):
    """A mask in (0, 1) per channel of feature maps: the maps are reduced to a vector, which `MaskNet1d` scores."""

    def __init__(self, features: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(
            nn.Conv2d(features, features, 3, stride=2, padding=1, groups=features, bias=False),
            nn.Conv2d(features, features, 1, bias=False),
            nn.BatchNorm2d(features),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
        )
        self.mask = MaskNet1d(features, hidden, heads)

    def forward(self, h: Float[Tensor, "n d height width"]) -> Float[Tensor, "n d"]:
        """The mask, one value per channel."""
        return cast(Tensor, self.mask(self.reduce(h)))


@final
class MaskNetTokens(nn.Module):
    """A mask in (0, 1) per feature of a sequence, the same for all its tokens, from their mean.

    Deviation: ours, so that layers of transformers can be masked; the paper masks vectors and maps only.
    """

    def __init__(self, features: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.mask = MaskNet1d(features, hidden, heads)

    def forward(self, h: Float[Tensor, "n t d"]) -> Float[Tensor, "n 1 d"]:
        """The mask, to be broadcast over tokens."""
        return cast(Tensor, self.mask(h.mean(1)).unsqueeze(1))


@final
class Unmasked(nn.Module):
    """In place of a mask: ones. For the control in which T and A teach as they are."""

    def forward(self, h: Tensor) -> Tensor:
        """Ones."""
        return torch.ones_like(h)


def mask_width(features: int, *, hidden_factor: int, heads: int) -> int:
    """H, the width of a mask's tokens: features / hidden_factor, rounded down to a multiple of `heads`."""
    return features // (hidden_factor * heads) * heads


def mask_parameters(features: int, hidden: int) -> int:
    """How many parameters a `MaskNet1d` has."""
    return features * hidden * (features + 1) + 4 * hidden * (hidden + 1) + hidden + 1


def build_mask(shape: Sequence[int], *, hidden_factor: int, heads: int, limit: int) -> nn.Module:
    """A mask for a layer whose output for one sample has `shape`: (d,) or (d, 1, 1), (t, d), or (d, height, width).

    Raises:
        ConfigError: a shape that no mask fits, too few features, or more than `limit` parameters.
    """
    kinds: dict[int, type[nn.Module]] = {1: MaskNet1d, 2: MaskNetTokens, 3: MaskNet2d}
    if len(shape) not in kinds:
        raise ConfigError(
            f"a layer with outputs of shape {tuple(shape)} per sample cannot be masked; expected a vector (d,), tokens "
            "(t, d) or maps (d, height, width): name another layer"
        )
    features = shape[-1] if len(shape) == 2 else shape[0]
    kind = MaskNet1d if len(shape) == 3 and tuple(shape[1:]) == (1, 1) else kinds[len(shape)]
    hidden = mask_width(features, hidden_factor=hidden_factor, heads=heads)
    if hidden == 0:
        raise ConfigError(
            f"a layer of {features} features is too narrow for a mask; hidden_factor {hidden_factor} * heads {heads} "
            f"needs at least {hidden_factor * heads}: lower one of them or name a wider layer"
        )
    if mask_parameters(features, hidden) > limit:
        raise ConfigError(
            f"the mask of a layer of {features} features would have {mask_parameters(features, hidden):,} parameters, "
            f"more than mask_limit {limit:,}; {_remedy(features, heads, limit)}"
        )
    return kind(features, hidden, heads)


def _remedy(features: int, heads: int, limit: int) -> str:
    for factor in range(1, features // heads + 1):
        if mask_parameters(features, mask_width(features, hidden_factor=factor, heads=heads)) <= limit:
            return f"hidden_factor {factor} is the smallest that fits, or name a narrower layer"
    return "name a narrower layer"


@final
class GateNet(nn.Module):
    """Logits over teachers from the student's logits: two linear layers without an activation between them."""

    def __init__(self, num_outputs: int, num_teachers: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(num_outputs, 2 * num_outputs)
        self.fc2 = nn.Linear(2 * num_outputs, num_teachers)

    def forward(self, logits: Float[Tensor, "n c"]) -> Float[Tensor, "n e"]:
        """Gate logits."""
        return cast(Tensor, self.fc2(self.fc1(logits)))


@final
class UnimodalNet(nn.Module):
    """S(a) or A(b): an encoder to (n, width), then `fc1`, `fc2`, ...; without an encoder an MLP on flat inputs."""

    def __init__(
        self, width: int, *, num_outputs: int, hidden: Sequence[int] = (24, 12), encoder: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.encoder = nn.Flatten() if encoder is None else encoder
        self.names = _add_linear(self, (width, *hidden, num_outputs))

    def forward(self, x: Tensor) -> Float[Tensor, "n c"]:
        """Logits."""
        return _through(self, self.names, ask(self.encoder, x))


@final
class PairedTeacher(nn.Module):
    """T(a, b): two encoders whose outputs are joined in the layer named `fusion`, then `fc1`, `fc2`, ...

    `width`: of both encoders' outputs together. `fusion` computes nothing; it can be named to carry a mask.
    """

    def __init__(
        self,
        encoder_a: nn.Module,
        encoder_b: nn.Module,
        width: int,
        *,
        num_outputs: int,
        hidden: Sequence[int] = (24, 12),
    ) -> None:
        super().__init__()
        self.encoder_a, self.encoder_b, self.fusion = encoder_a, encoder_b, nn.Identity()
        self.names = _add_linear(self, (width, *hidden, num_outputs))

    def forward(self, a: Tensor, b: Tensor) -> Float[Tensor, "n c"]:
        """Logits."""
        return _through(
            self, self.names, self.fusion(torch.cat([ask(self.encoder_a, a), ask(self.encoder_b, b)], dim=1))
        )


def _add_linear(net: nn.Module, widths: Sequence[int]) -> tuple[str, ...]:
    names = tuple(f"fc{number}" for number in range(1, len(widths)))
    for name, before, after in zip(names, widths, widths[1:], strict=False):
        net.add_module(name, nn.Linear(before, after))
    return names


def _through(net: nn.Module, names: Sequence[str], features: Tensor) -> Tensor:
    # A mask multiplies what a linear layer puts out, before ReLU, as in the paper's networks.
    for name in names[:-1]:
        features = net.get_submodule(name)(features).relu()
    return cast(Tensor, net.get_submodule(names[-1])(features))

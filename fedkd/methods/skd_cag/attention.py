"""Cross-attention probabilities of a network while it computes: with their gradients, and for each network apart."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, final

from torch import Tensor, nn

from fedkd.errors import ConfigError
from fedkd.extras import need
from fedkd.models.tiny_diffusion import CrossAttention, Grid, Record


@final
class AttentionTap:
    """Reads the cross-attention probabilities of one network, in the order of its layers.

    Taps every `CrossAttention`, and every `attn2` of a diffusers model, whose fused kernel (which returns no
    probabilities) gives way to the explicit softmax until `close`. A tap belongs to its network: teacher and student
    have one each. Copy a network before tapping it.

    Nothing is kept outside `recording`, so the second forward pass that gradient checkpointing makes during `backward`
    leaves no trace.
    """

    def __init__(self, network: nn.Module) -> None:
        self._recorded: dict[str, Tensor] | None = None
        self._undo: list[Callable[[], None]] = []
        try:
            for name, module in network.named_modules():
                if isinstance(module, CrossAttention):
                    self._tap_ours(name, module)
                elif name.rpartition(".")[2] == "attn2":
                    self._tap_diffusers(name, module, network)
        except BaseException:
            self.close()
            raise
        if not self._undo:
            raise ConfigError(
                f"{type(network).__name__} has no cross-attention that can be read; attention guidance needs a "
                "denoiser with modules named attn2 (diffusers) or of class CrossAttention. Without it, set "
                "method.attention_weight = 0: plain self-distillation",
                key="attention_weight",
            )

    @contextlib.contextmanager
    def recording(self) -> Iterator[dict[str, Tensor]]:
        """A dict that fills with (batch, heads, tokens, h, w) by layer name, during one forward pass within."""
        if self._recorded is not None:
            raise RuntimeError("this tap records already; a recording takes one forward pass of one network")
        recorded: dict[str, Tensor] = {}
        self._recorded = recorded
        try:
            yield recorded
        finally:
            self._recorded = None

    def close(self) -> None:
        """Give the network its own attention back."""
        while self._undo:
            self._undo.pop()()

    def _keep(self, name: str, probs: Tensor, grid: Grid) -> None:
        if self._recorded is None:
            return
        if name in self._recorded:
            raise RuntimeError(
                f"layer {name} computed twice in one recording, so its maps would be of two passes; take one forward "
                "pass per recording, and call backward outside of it"
            )
        self._recorded[name] = probs.transpose(-1, -2).reshape(*probs.shape[:2], probs.shape[-1], *grid)

    def _tap_ours(self, name: str, module: CrossAttention) -> None:
        module.record = functools.partial(self._keep, name)
        self._undo.append(functools.partial(setattr, module, "record", None))

    def _tap_diffusers(self, name: str, module: nn.Module, network: nn.Module) -> None:
        library = need("diffusers.models.attention_processor", extra="diffusion", what="reading attention maps")
        attention: Any = module
        plain = (library.AttnProcessor, library.AttnProcessor2_0, library.XFormersAttnProcessor)
        if not isinstance(attention.processor, plain):
            raise ConfigError(
                f"layer {name} uses {type(attention.processor).__name__}, which the explicit softmax cannot stand "
                "in for; call set_default_attn_processor() on the model first"
            )
        grids = _GridWatch(_image_ancestor(name, network))
        before = attention.processor
        attention.set_processor(
            _RecordingProcessor(library.AttnProcessor(), functools.partial(self._keep, name), grids)
        )
        self._undo.append(grids.close)
        self._undo.append(functools.partial(attention.set_processor, before))


def _image_ancestor(name: str, network: nn.Module) -> nn.Module:
    """The innermost module above layer `name` that takes images, not sequences."""
    image_module = need("diffusers", extra="diffusion", what="reading attention maps").Transformer2DModel
    parts = name.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        module: nn.Module = network.get_submodule(".".join(parts[:depth]))
        if issubclass(type(module), image_module):
            return module
    raise ConfigError(f"layer {name} lies in no Transformer2DModel, so the shape of its attention maps is not known")


class _GridWatch:
    """Height and width of the image that a module is working on."""

    def __init__(self, module: nn.Module) -> None:
        self.grid: Grid = (0, 0)
        self._hook = module.register_forward_pre_hook(self._look, with_kwargs=True)

    def close(self) -> None:
        self._hook.remove()

    def _look(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG002 - a hook's arguments
        image: Tensor = args[0] if args else kwargs["hidden_states"]
        self.grid = (image.shape[-2], image.shape[-1])


class _RecordingProcessor:
    """The explicit attention of diffusers, with an eye on its probabilities."""

    def __init__(self, explicit: Any, record: Record, grids: _GridWatch) -> None:
        self._explicit, self._record, self._grids = explicit, record, grids

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        is_cross = encoder_hidden_states is not None
        layer = _Watched(attn, self._seen) if is_cross else attn
        out: Tensor = self._explicit(layer, hidden_states, encoder_hidden_states, attention_mask, temb)
        return out

    def _seen(self, attn: Any, probs: Tensor) -> None:
        self._record(probs.reshape(-1, attn.heads, *probs.shape[1:]), self._grids.grid)


class _Watched:
    """An attention layer that shows its probabilities to `seen` and is otherwise the layer itself."""

    def __init__(self, layer: Any, seen: Callable[[Any, Tensor], None]) -> None:
        self._layer, self._seen = layer, seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def get_attention_scores(self, query: Tensor, key: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        probs: Tensor = self._layer.get_attention_scores(query, key, attention_mask)
        self._seen(self._layer, probs)
        return probs


def word_layers(recorded: dict[str, Tensor], sample: Tensor, position: Tensor) -> list[Tensor]:
    """Each layer's probabilities (heads, n, h, w) of n word tokens, given their samples (n,) and positions (n,).

    Selected before any resizing: of a prompt's 77 tokens some ten are words.
    """
    return [layer[sample, :, position].transpose(0, 1) for layer in recorded.values()]


def detached(recorded: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same probabilities without gradients."""
    return {name: layer.detach() for name, layer in recorded.items()}

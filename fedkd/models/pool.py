"""Live modules, one per architecture and role, shared by all clients of a worker; states are loaded as they come."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from fedkd.errors import ConfigError
from fedkd.models.build import architecture_of, build_model
from fedkd.models.config import ModelConfig
from fedkd.models.live import Live
from fedkd.models.roles import ModelRole
from fedkd.models.spec import ModelSpec
from fedkd.models.stacked import Stack
from fedkd.models.stacking import stack_size
from fedkd.models.twins import Descent
from fedkd.models.weights import digest_of_files, find_weights, tensors_of

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class ModelPool:
    """Builds modules once per architecture; a thousand clients need one live module and a thousand states.

    Attributes:
        config, teacher: the groups `model` and `teacher`.
        spec: what the task's models take and give.
        roles: the models that the trainer declares; any other role is one more copy of the student.
    """

    config: ModelConfig
    spec: ModelSpec
    device: str = "cpu"
    teacher: ModelConfig = field(default_factory=ModelConfig)
    roles: tuple[ModelRole, ...] = ()
    _live: dict[tuple[str, str], Live] = field(default_factory=dict)
    _frozen: dict[tuple[str, str], Live] = field(default_factory=dict)
    _custom: dict[tuple[str, str], Live] = field(default_factory=dict)
    _starts: dict[tuple[str, str], dict[str, Tensor]] = field(default_factory=dict)
    _stack_sizes: dict[tuple[str, str], int] = field(default_factory=dict)

    def for_client(self, client_id: int) -> ClientModels:
        """The pool as one client sees it."""
        return ClientModels(self, client_id)

    def role(self, name: str) -> ModelRole:
        """The declared role of that name, else a copy of the student."""
        return next((role for role in self.roles if role.name == name), ModelRole(name=name, source="copy_of_student"))

    def config_of(self, role: str) -> ModelConfig:
        """The configuration of a role's architecture."""
        return self.teacher if self.role(role).group == "teacher" else self.config

    def stack_size(self, architecture: str, *, mode: str) -> int:
        """How many students of an architecture to train side by side; see `fedkd.models.stacking`."""
        key = (architecture, mode)
        if key not in self._stack_sizes:
            model = self.live(architecture, "student").module
            self._stack_sizes[key] = stack_size(model, architecture, device=self.device, mode=mode)
        return self._stack_sizes[key]

    def build(self, architecture: str, group: str = "model") -> nn.Module:
        """A model of one of the groups on the device; fresh weights come from torch's current random state."""
        config = self.teacher if group == "teacher" else self.config
        return self.place(build_model(architecture, config, self.spec, group=group), self.spec)

    def place(self, model: nn.Module, spec: ModelSpec) -> nn.Module:
        """The model on the device, in the memory format that suits its inputs."""
        model = model.to(self.device)
        # Channels last: torch's CPU max pooling alone made a step of the small CNN 1.8 times slower otherwise.
        return model.to(memory_format=torch.channels_last) if spec.takes_images else model

    def live(self, architecture: str, role: str) -> Live:
        """The shared module of an architecture in a role ("student", "teacher", ...).

        One whose tensors a trainer has replaced is built anew.
        """
        group = self.role(role).group
        return _shared(self._live, (architecture, role), lambda: self.build(architecture, group))

    def custom(self, key: tuple[str, str], build: Callable[[], nn.Module]) -> Live:
        """The shared module of a trainer's own making."""
        return _shared(self._custom, key, lambda: build().to(self.device))

    def frozen(self, architecture: str, role: str) -> Live:
        """The shared module of a role that never changes, with the weights that the configuration names."""

        def read() -> nn.Module:
            config = self.config_of(role)
            path = find_weights(config)
            told = "from the hub" if path is None else f"sha256 {digest_of_files(path)}"
            _log.info("role %s: %s with weights %s, %s", role, architecture, config.weights, told)
            return self.build(architecture, self.role(role).group)

        return _shared(self._frozen, (architecture, role), read)

    def start(self, architecture: str, role: str) -> dict[str, Tensor]:
        """Weights that a role starts from: those that the configuration names, read once, else new random ones."""
        group = self.role(role).group
        if not self.config_of(role).weights:
            return snapshot(self.build(architecture, group))
        key = (architecture, group)
        if key not in self._starts:
            with torch.random.fork_rng(devices=[]):  # only the first client reads the file: all see the same stream
                self._starts[key] = snapshot(self.build(architecture, group))
        return {name: tensor.clone() for name, tensor in self._starts[key].items()}


@dataclass(frozen=True, eq=False)
class ClientModels:
    """The models of one client, by role.

    A module is shared by all clients of a worker: what it holds is the state that was loaded into it last.
    """

    pool: ModelPool
    client_id: int

    @property
    def architecture(self) -> str:
        """The name of the client's student."""
        return architecture_of(self.pool.config, self.client_id)

    @property
    def spec(self) -> ModelSpec:
        """What the task's models take and give."""
        return self.pool.spec

    def has(self, role: str) -> bool:
        """Whether an optional role is configured: one that needs weights has some."""
        return not self.pool.role(role).needs_weights or bool(self.pool.config_of(role).weights)

    def fresh(self, role: str = "student") -> dict[str, Tensor]:
        """Weights to start from: of `<group>.weights`, else newly drawn from torch's current random state."""
        return self.pool.start(self._architecture(role), role)

    def load(self, role: str, weights: Mapping[str, Tensor], *, strict: bool = True) -> nn.Module:
        """The live module of `role`, holding `weights`: in training mode, without gradients and hooks.

        A parameter requires gradients as it did when built; none does where the role is declared frozen.

        Args:
            strict: false leaves what `weights` lacks as it is in the module (of the model that was loaded last).

        Raises:
            StateError: the weights belong to another architecture.
        """
        live = self.pool.live(self._architecture(role), role)
        live.fill(weights, strict=strict)
        return live.freeze() if self.pool.role(role).frozen else live.reset()

    def frozen(self, role: str) -> nn.Module:
        """The model of `<group>.weights` in evaluation mode, without gradients; read once per worker.

        It may stand in a graph: gradients pass through it to its inputs.

        Raises:
            ConfigError: no weights are configured, or they do not fit.
        """
        if not self.pool.config_of(role).weights:
            group = self.pool.role(role).group
            raise ConfigError(
                f"{group}.weights is empty, but the {role} is never trained here; name a .safetensors file or a folder "
                "in Hugging Face format",
                key=f"{group}.weights",
            )
        return self.pool.frozen(self._architecture(role), role).freeze()

    def custom(
        self, key: str, build: Callable[[], nn.Module], weights: Mapping[str, Tensor] | None = None
    ) -> nn.Module:
        """The live module that `build` made for this key and the client's architecture, with `weights` if given.

        For projectors, gates, masks. Draw initial weights with `snapshot(build())` and keep them in the state; without
        `weights` the module holds what another client may have left in it. Training mode, gradients and hooks are reset
        as in `load`.
        """
        live = self.pool.custom((self.architecture, key), build)
        if weights is not None:
            live.fill(weights, strict=True)
        return live.reset()

    def stack(self, descent: Descent) -> Stack:
        """An empty stack of students of this client's architecture."""
        return Stack(self.pool.live(self.architecture, "student").reset(), descent, device=self.pool.device)

    def build(self, name: str, *, spec: ModelSpec | None = None, group: str = "method", **changes: Any) -> nn.Module:
        """A fresh model that a method's option names, on the device; pass it to `custom` to keep it live.

        Args:
            spec: what it takes and gives, where that is not the task's.
            group: where the option stands, for messages.
            changes: fields of ModelConfig (hidden, dropout, weights, options, ...); widths are otherwise the student's.
        """
        plain = {"num_outputs": 0, "weights": "", "options": "", **changes}
        config = replace(self.pool.config, name=name, **plain)
        wanted = spec or self.pool.spec
        return self.pool.place(build_model(name, config, wanted, group=group), wanted)

    def _architecture(self, role: str) -> str:
        return architecture_of(self.pool.config_of(role), self.client_id)


def snapshot(model: nn.Module, *, trainable_only: bool = False) -> dict[str, Tensor]:
    """A copy of the weights on the CPU that later training does not touch; tied weights stand once.

    `trainable_only` keeps the parameters that require gradients and leaves out all others and the buffers; load such a
    state with `strict=False`.
    """
    trained = {name for name, tensor in model.named_parameters(remove_duplicate=False) if tensor.requires_grad}
    return {
        name: tensor.detach().to("cpu", copy=True)
        for name, tensor in tensors_of(model).items()
        if name in trained or not trainable_only
    }


def _shared(shelf: dict[tuple[str, str], Live], key: tuple[str, str], build: Callable[[], nn.Module]) -> Live:
    """The module on the shelf, built where it is not there or no longer what it was."""
    if key not in shelf or not shelf[key].is_intact:
        with torch.random.fork_rng(
            devices=[]
        ):  # its weights are drawn and then overwritten: they must not move anyone's stream
            shelf[key] = Live(build())
    return shelf[key]

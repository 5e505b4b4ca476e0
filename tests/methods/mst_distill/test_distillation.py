import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn, optim

from fedkd.errors import ConfigError
from fedkd.functional.losses import target_cross_entropy
from fedkd.functional.mst_distill import gate_probs, load_balance_kl, routed_loss, softened_kl
from fedkd.methods.local_training import step
from fedkd.methods.mst_distill.config import MSTDistillConfig
from fedkd.methods.mst_distill.distillation import Distillation, validation_loss
from fedkd.methods.mst_distill.hooks import Plug
from fedkd.methods.mst_distill.loops import epoch
from fedkd.methods.mst_distill.mixture import Networks, Pairs, Specialists, build_specialists
from fedkd.methods.mst_distill.networks import GateNet, PairedTeacher, UnimodalNet
from fedkd.methods.taught import Taught
from fedkd.models.frozen import frozen
from fedkd.models.pool import snapshot
from fedkd.rows import Rows
from fedkd.streams import stream
from fedkd.tasks.batches import PairBatch
from fedkd.types import Ids

CLASSES = 3
LAYERS: dict[str, Any] = {"teacher_layers": "fusion", "auxiliary_layers": "fc1"}


@pytest.fixture(autouse=True)
def _own_random_state() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def given(a: Tensor, b: Tensor | None, y: Tensor | None) -> Pairs:
    """Samples from their tensors."""

    def at(index: Ids) -> PairBatch:
        where = torch.from_numpy(index)
        return PairBatch(a[where], None if b is None else b[where], None if y is None else y[where])

    return Pairs(at, len(a))


Y = torch.arange(60) % CLASSES
X = noise(CLASSES, 14, seed=99)[Y] + noise(60, 14, seed=1)
A, B = X[:, :8], X[:, 8:]
TRAIN = given(A, B, Y)
WORDS = 4 * torch.eye(CLASSES)[Y]  # what the federation says about samples: their class


class World:
    """Networks with two masks, a student and a gate; the teachers know nothing, which is enough here."""

    def __init__(self, *, outputs: int = 3, lr: float = 1e-2, one_modality: bool = False, **options: Any) -> None:
        teacher = PairedTeacher(nn.Linear(8, 6), nn.Linear(6, 6), 12, num_outputs=CLASSES, hidden=(6,))
        auxiliary = UnimodalNet(6, num_outputs=CLASSES, hidden=(6,))
        self.config = MSTDistillConfig(**{**LAYERS, **options})
        self.student = UnimodalNet(8, num_outputs=CLASSES, hidden=(6,))
        nets = Networks(teacher, auxiliary, self.student)
        made = build_specialists(nets, self.config, A[:2], B[:2], make=lambda name, build: build())
        self.specialists = None if one_modality else made
        self.gate = GateNet(CLASSES, outputs)
        self.both = [*self.student.parameters(), *self.gate.parameters()]
        self.optimizer: optim.Optimizer = optim.Adam(self.both, lr)

    def losses(self, **options: Any) -> Distillation:
        known = {"config": self.config, "train": TRAIN, "per_epoch": 3, **options}
        return Distillation(self.student, self.gate, self.specialists, **known)

    def train(self, epochs: int = 2, batch: int = 20, **options: Any) -> Distillation:
        """Private passes alone."""
        losses, rng = self.losses(**options), stream(0, "private-order")
        modules = () if self.specialists is None else self.specialists.modules()
        with frozen(*modules):
            for _ in range(epochs):
                for index in epoch(rng, 60, batch):
                    step(self.optimizer, losses.on_private(index))
        return losses

    def hear(self, steps: int, b: Tensor | None, **options: Any) -> Distillation:
        """Proxy steps alone."""
        rows = Rows(space="proxy", kind="logits", ids=np.arange(60), values=WORDS.numpy())
        losses = self.losses(proxy=given(A, b, None), taught=Taught(rows, 1), **options)
        rng = stream(0, "proxy-order")
        modules = () if self.specialists is None else self.specialists.modules()
        with frozen(*modules):
            for _ in range(steps):
                step(self.optimizer, losses.on_proxy(rng.permutation(60)[:20]))
        return losses


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("gate_grad", ["none", "weighted"])
def test_one_step_is_the_gradient_of_the_weighted_sum(gate_grad: str) -> None:
    world = World(gate_grad=gate_grad, w_task=0.5, w_kl=2.0, w_lb=3.0)
    world.optimizer = optim.SGD(world.both, 0.1)
    student, gate = copy.deepcopy(world.student), copy.deepcopy(world.gate)
    metrics = world.train(epochs=1, batch=60).metrics()

    assert world.specialists is not None
    index = torch.from_numpy(next(epoch(stream(0, "private-order"), 60, 60)))
    said = student(A[index])
    q = gate_probs(gate(said)[:, :2])  # the aggregate is absent on private samples
    teachers = world.specialists.logits(A[index], B[index])
    kl, picks = routed_loss(said, teachers, q, k=1, gate_grad=gate_grad, temperature=4.0)
    task = target_cross_entropy(said, Y[index])
    (0.5 * task + 2.0 * kl + 3.0 * load_balance_kl(q)).backward()
    for found, parameter in zip(world.both, [*student.parameters(), *gate.parameters()], strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(found.detach(), parameter.detach() - 0.1 * parameter.grad)
    assert metrics["task_loss"] == pytest.approx(task.item(), rel=1e-5)
    assert metrics["kl_loss"] == pytest.approx(kl.item(), rel=1e-5)
    assert metrics["lb_loss"] == pytest.approx(load_balance_kl(q).item(), rel=1e-4, abs=1e-7)
    share = (picks == 1).double().mean().item()
    assert [metrics[f"routing/{j}"] for j in (1, 2, 3)] == pytest.approx([1 - share, share, 0.0])


def test_teachers_and_masks_do_not_move() -> None:
    world = World()
    assert world.specialists is not None
    before = [snapshot(model) for model in world.specialists.modules()]
    world.train()
    for model, weights in zip(world.specialists.modules(), before, strict=True):
        assert same(snapshot(model), weights)
        assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("how", "moves"), [("none", False), ("weighted", True)])
def test_the_gate_stands_still_without_load_balance_and_learns_when_weighted(how: str, moves: bool) -> None:
    world = World(gate_grad=how, w_lb=0.0)
    before = snapshot(world.gate)
    world.train()
    assert same(snapshot(world.gate), before) is not moves


@pytest.mark.parametrize("detach", [False, True])
def test_the_load_balance_reaches_the_student_unless_detached(detach: bool) -> None:
    world = World(w_task=0.0, w_kl=0.0, detach_gate=detach)
    before = snapshot(world.student)
    world.train()
    assert same(snapshot(world.student), before) is detach


@pytest.mark.parametrize("hooks", ["single", "cumulative"])
@pytest.mark.parametrize("routing", ["top_k", "soft"])
def test_remembered_teachers_say_what_asked_ones_say(hooks: str, routing: str) -> None:
    weights = []
    for remember in (True, False):
        torch.manual_seed(0)
        layers = {"teacher_layers": "fusion,fc1", "auxiliary_layers": "fc1", "hooks": hooks, "routing": routing}
        world = World(outputs=4, gate_grad="weighted", k=2, **layers)
        metrics = world.train(remember=remember, batch=20).metrics()
        assert sum(metrics[f"routing/{j}"] for j in range(1, 5)) == pytest.approx(1.0)
        weights.append(snapshot(world.student))
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-4, atol=1e-6)


def test_drawn_teachers_are_drawn_evenly_whatever_the_gate_says() -> None:
    world = World(routing="random")
    with torch.no_grad():
        world.gate.fc2.bias.copy_(torch.tensor([50.0, 0.0, 0.0]))
    metrics = world.train(epochs=10).metrics()
    assert metrics["routing/1"] == pytest.approx(0.5, abs=0.1)
    assert metrics["lb_loss"] > 0.1  # the gate is still asked to balance


def test_the_weights_decay_by_the_epoch_over_all_rounds() -> None:
    weights = []
    for cuts in ([4], [1, 3]):
        torch.manual_seed(0)
        world, done, rng = World(kl_every=2, lb_every=3), 0, stream(0, "order")
        for epochs in cuts:
            losses = world.losses(done=done)
            for _ in range(epochs):
                for index in epoch(rng, 60, 20):
                    step(world.optimizer, losses.on_private(index))
            done = losses.done
        assert (done, losses.epoch) == (12, 3)
        weights.append(snapshot(world.student))
    assert same(*weights)


def test_validation_loss_is_the_mean_over_samples() -> None:
    student = UnimodalNet(8, num_outputs=CLASSES, hidden=(6,))
    with torch.no_grad():
        expected = nn.functional.cross_entropy(student(A), Y).item()
    assert validation_loss(student, TRAIN, batch=7) == pytest.approx(expected, rel=1e-5)
    assert student.training


# The gate as a router


class Reader(nn.Module):
    """Says what its input tells it: the sum of four teachers' logits; a mask lets one of them through."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.words, self.classes = nn.Identity(), classes

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.words(inputs[-1]).unflatten(1, (4, self.classes)).sum(1)


class Only(nn.Module):
    """A mask that lets teacher `number`'s logits through."""

    def __init__(self, number: int, classes: int) -> None:
        super().__init__()
        self.mask = torch.eye(4)[number].repeat_interleave(classes)

    def forward(self, h: Tensor) -> Tensor:
        return self.mask.expand_as(h)


@pytest.mark.parametrize(
    ("gate_grad", "k", "routes"), [("weighted", 1, True), ("weighted", 2, True), ("none", 1, False)]
)
def test_a_weighted_gate_sends_samples_to_the_teacher_that_knows_their_class(
    gate_grad: str, k: int, routes: bool
) -> None:
    classes, size, rng = 8, 400, np.random.default_rng(0)
    y = np.arange(size) % classes
    knows = y // 2  # teacher j is right on classes 2j and 2j + 1, and names any class elsewhere
    named = rng.integers(0, classes, (size, 4))
    named[np.arange(size), knows] = y
    a = torch.from_numpy(4 * np.eye(classes)[y] + rng.normal(size=(size, classes))).float()
    b = torch.from_numpy(5 * np.eye(classes)[named]).float().flatten(1)
    plugs = tuple(Plug("words", Only(number, classes)) for number in range(4))
    mixture = Specialists(Reader(classes), Reader(classes), plugs[:2], plugs[2:])
    student, gate = UnimodalNet(classes, num_outputs=classes, hidden=()), GateNet(classes, 5)
    optimizer = optim.Adam([*student.parameters(), *gate.parameters()], 1e-2)
    data = given(a, b, torch.from_numpy(y))
    config = MSTDistillConfig(gate_grad=gate_grad, k=k)
    losses = Distillation(student, gate, mixture, config=config, train=data, per_epoch=8)
    order = stream(0, "private-order")
    for _ in range(20):
        for index in epoch(order, size, 50):
            step(optimizer, losses.on_private(index))
    picks = gate(student(a))[:, :4].argmax(1).numpy()
    shares = [float((picks[knows == number] == number).mean()) for number in range(4)]
    assert (min(shares) > 0.6) is routes, shares


# The aggregate as one more teacher


def test_on_proxy_samples_of_one_modality_the_aggregate_alone_teaches() -> None:
    world = World()
    before = softened_kl(world.student(A), WORDS, temperature=4.0).item()
    metrics = world.hear(90, None).metrics()
    assert softened_kl(world.student(A), WORDS, temperature=4.0).item() < 0.5 * before
    assert [metrics[f"routing/{j}"] for j in (1, 2, 3)] == [0.0, 0.0, 1.0]
    assert metrics["proxy_lb_loss"] == pytest.approx(0.0, abs=1e-7)
    assert "task_loss" not in metrics


def test_on_paired_proxy_samples_the_gate_chooses_among_all() -> None:
    world = World(lr=1e-6)
    assert [world.hear(1, B).metrics()[f"routing/{j}"] == 1.0 for j in (1, 2, 3)] != [False, False, True]
    with torch.no_grad():
        world.gate.fc2.bias.copy_(torch.tensor([0.0, 0.0, 50.0]))
    assert world.hear(1, B).metrics()["routing/3"] == 1.0


def test_a_client_of_one_modality_learns_from_labels_and_the_aggregate() -> None:
    world = World(outputs=1, one_modality=True)
    assert set(world.train(epochs=1).metrics()) == {"task_loss"}
    assert set(world.hear(1, None).metrics()) == {"proxy_kl_loss", "proxy_lb_loss", "routing/1"}


def test_a_gate_of_the_wrong_width_is_refused() -> None:
    with pytest.raises(ConfigError, match="the gate has 1 outputs for 2 teachers"):
        World(outputs=1).train()
    with pytest.raises(ConfigError, match="the gate has 0 outputs for 1 teachers"):
        World(outputs=2).hear(1, None)

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn, optim

from fedkd.errors import ConfigError
from fedkd.functional.mst_distill import gate_probs, load_balance_kl, routed_loss, softened_kl, task_loss
from fedkd.methods.mst_distill.config import MSTDistillConfig
from fedkd.methods.mst_distill.distillation import Distilled, distil, validation_loss
from fedkd.methods.mst_distill.hooks import Plug
from fedkd.methods.mst_distill.loops import epoch
from fedkd.methods.mst_distill.mixture import Networks, Paired, ProxyItems, Specialists, build_specialists
from fedkd.methods.mst_distill.networks import GateNet, GateNetDense, PairedTeacher, UnimodalNet
from fedkd.models.pool import snapshot
from fedkd.streams import stream

CLASSES = 3
TWO = MSTDistillConfig(teacher_layers="fusion", auxiliary_layers="fc1")


@pytest.fixture(autouse=True)
def _own_random_state() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def streams(seed: int = 0) -> Callable[[str], np.random.Generator]:
    return lambda name: stream(seed, name)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pairs(size: int, *, seed: int) -> Paired:
    y = torch.arange(size) % CLASSES
    centres = noise(CLASSES, 14, seed=99)
    x = centres[y] + noise(size, 14, seed=seed)
    return Paired(x[:, :8], x[:, 8:], y)


TRAIN, VAL = pairs(60, seed=1), pairs(30, seed=2)
NO_SAMPLES = TRAIN.at(np.zeros(0, np.int64))
PROXY = ProxyItems(pairs(40, seed=3).a, None, 4 * torch.eye(CLASSES)[torch.arange(40) % CLASSES])


class World:
    """Networks with two masks, a student and a gate; the teachers know nothing, which is enough here."""

    def __init__(self, outputs: int = 2, config: MSTDistillConfig = TWO, **options: Any) -> None:
        teacher = PairedTeacher(nn.Linear(8, 6), nn.Linear(6, 6), 12, num_outputs=CLASSES, hidden=(6,))
        auxiliary = UnimodalNet(6, num_outputs=CLASSES, hidden=(6,))
        self.student = UnimodalNet(8, num_outputs=CLASSES, hidden=(6,))
        nets = Networks(teacher, auxiliary, self.student)
        assert TRAIN.b is not None
        self.specialists: Specialists | None = build_specialists(nets, config, TRAIN.a[:2], TRAIN.b[:2])
        self.gate = GateNet(CLASSES, outputs)
        self.config = config
        self.options = options

    def optimizer(self, lr: float = 1e-2) -> optim.Optimizer:
        return optim.Adam([*self.student.parameters(), *self.gate.parameters()], lr)

    def distil(self, train: Paired = TRAIN, val: Paired | None = None, **options: Any) -> Distilled:
        known = {"config": self.config, "epochs": 2, "batch": 20, "rng": streams(), **self.options, **options}
        optimizer = known.pop("optimizer", None) or self.optimizer()
        return distil(self.student, self.gate, self.specialists, train, val, optimizer, **known)


@pytest.mark.parametrize("gate_grad", ["none", "weighted"])
def test_one_step_is_the_gradient_of_the_weighted_sum(gate_grad: str) -> None:
    config = MSTDistillConfig(
        teacher_layers="fusion", auxiliary_layers="fc1", gate_grad=gate_grad, w_task=0.5, w_kl=2.0, w_lb=3.0
    )
    world = World(config=config)
    student, gate = copy.deepcopy(world.student), copy.deepcopy(world.gate)
    both = [*world.student.parameters(), *world.gate.parameters()]
    result = world.distil(optimizer=optim.SGD(both, 0.1), epochs=1, batch=60)

    assert world.specialists is not None
    assert TRAIN.b is not None
    index = torch.from_numpy(next(epoch(streams()("private-order"), 60, 60)))
    said = student(TRAIN.a[index])
    q = gate_probs(gate(said))
    teachers = world.specialists.logits(TRAIN.a[index], TRAIN.b[index])
    kl, picks = routed_loss(said, teachers, q, k=1, gate_grad=gate_grad)
    task = task_loss(said, TRAIN.y[index])
    (0.5 * task + 2.0 * kl + 3.0 * load_balance_kl(q)).backward()
    for found, parameter in zip(both, [*student.parameters(), *gate.parameters()], strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(found.detach(), parameter.detach() - 0.1 * parameter.grad)
    (metrics,) = result.metrics
    assert metrics["task_loss"] == pytest.approx(task.item(), rel=1e-5)
    assert metrics["kl_loss"] == pytest.approx(kl.item(), rel=1e-5)
    assert metrics["lb_loss"] == pytest.approx(load_balance_kl(q).item(), rel=1e-4, abs=1e-7)
    share = (picks == 1).double().mean().item()
    assert result.routing == [pytest.approx([1 - share, share, 0.0])]


def test_teachers_and_masks_do_not_move() -> None:
    world = World()
    assert world.specialists is not None
    models = [world.specialists.teacher, world.specialists.auxiliary, *world.specialists.masks]
    before = [snapshot(model) for model in models]
    world.distil(val=VAL)
    for model, weights in zip(models, before, strict=True):
        assert all(torch.equal(tensor, weights[name]) for name, tensor in snapshot(model).items())
        assert all(parameter.grad is None for parameter in model.parameters())


def test_the_gate_stands_still_without_load_balance_and_learns_when_weighted() -> None:
    still, moved = (
        World(config=MSTDistillConfig(teacher_layers="fusion", auxiliary_layers="fc1", gate_grad=how, w_lb=0.0))
        for how in ("none", "weighted")
    )
    for world, moves in ((still, False), (moved, True)):
        before = snapshot(world.gate)
        world.distil()
        same = all(torch.equal(tensor, before[name]) for name, tensor in snapshot(world.gate).items())
        assert same is not moves


@pytest.mark.parametrize("detach", [False, True])
def test_the_load_balance_reaches_the_student_unless_detached(detach: bool) -> None:
    config = MSTDistillConfig(teacher_layers="fusion", auxiliary_layers="fc1", w_task=0.0, w_kl=0.0, detach_gate=detach)
    world = World(config=config)
    before = snapshot(world.student)
    world.distil()
    same = all(torch.equal(tensor, before[name]) for name, tensor in snapshot(world.student).items())
    assert same is detach


@pytest.mark.parametrize("hooks", ["single", "cumulative"])
@pytest.mark.parametrize("routing", ["top_k", "soft"])
def test_remembered_teachers_say_what_asked_ones_say(hooks: str, routing: str) -> None:
    weights = []
    for cache in (True, False):
        torch.manual_seed(0)
        config = MSTDistillConfig(
            teacher_layers="fusion,fc1",
            auxiliary_layers="fc1",
            hooks=hooks,
            routing=routing,
            gate_grad="weighted",
            k=2,
            cache_teachers=cache,
        )
        world = World(outputs=3, config=config)
        result = world.distil(val=VAL)
        assert all(sum(shares) == pytest.approx(1.0) for shares in result.routing)
        weights.append(result.weights)
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-4, atol=1e-6)


def test_the_student_of_the_best_epoch_is_kept() -> None:
    world = World()
    result = world.distil(val=VAL, epochs=12, optimizer=world.optimizer(lr=0.2))
    assert len(result.val_losses) == 12
    assert min(result.val_losses) < result.val_losses[-1]  # so large a step overshoots
    assert validation_loss(world.student, VAL, batch=7) == pytest.approx(result.val_losses[-1], rel=1e-5)
    world.student.load_state_dict(result.weights)
    assert validation_loss(world.student, VAL, batch=7) == pytest.approx(min(result.val_losses), rel=1e-5)


@pytest.mark.parametrize("val", [None, NO_SAMPLES])
def test_without_validation_samples_the_last_student_is_kept(val: Paired | None) -> None:
    world = World()
    result = world.distil(val=val)
    assert result.val_losses == []
    assert all(torch.equal(tensor, result.weights[name]) for name, tensor in snapshot(world.student).items())


def test_a_loss_that_is_not_a_number_is_never_the_best() -> None:
    world = World()
    broken = Paired(torch.full_like(VAL.a, math.nan), VAL.b, VAL.y)
    before = snapshot(world.student)
    result = world.distil(val=broken)
    assert all(math.isnan(loss) for loss in result.val_losses)
    assert all(torch.equal(tensor, before[name]) for name, tensor in result.weights.items())


def test_no_epochs_change_nothing() -> None:
    world = World()
    before = snapshot(world.student)
    result = world.distil(val=VAL, epochs=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in result.weights.items())


def test_weights_go_on_decaying_where_an_earlier_call_ended() -> None:
    config = MSTDistillConfig(teacher_layers="fusion", auxiliary_layers="fc1", kl_every=2, lb_every=3)
    runs = []
    for cuts in ([4], [1, 3]):
        torch.manual_seed(0)
        world = World(config=config)
        optimizer, done, orders = (
            world.optimizer(),
            0,
            {name: stream(0, name) for name in ("private-order", "proxy-order")},
        )
        for epochs in cuts:
            world.distil(epochs=epochs, first_epoch=done, optimizer=optimizer, rng=orders.__getitem__)
            done += epochs
        runs.append(snapshot(world.student))
    assert all(torch.equal(runs[0][name], tensor) for name, tensor in runs[1].items())


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
    student, gate = UnimodalNet(classes, num_outputs=classes, hidden=()), GateNet(classes, 4)
    optimizer = optim.Adam([*student.parameters(), *gate.parameters()], 1e-2)
    config = MSTDistillConfig(gate_grad=gate_grad, k=k)
    data = Paired(a, b, torch.from_numpy(y))
    distil(student, gate, mixture, data, None, optimizer, config=config, epochs=20, batch=50, rng=streams())
    picks = gate(student(a)).argmax(1).numpy()
    shares = [float((picks[knows == number] == number).mean()) for number in range(4)]
    assert (min(shares) > 0.6) is routes, shares


# The aggregate as one more teacher


def test_on_proxy_items_of_one_modality_the_aggregate_alone_teaches() -> None:
    world = World(outputs=3)
    before = softened_kl(world.student(PROXY.a), PROXY.z_bar).item()
    result = world.distil(NO_SAMPLES, proxy=PROXY, proxy_batch=10, epochs=30)
    assert softened_kl(world.student(PROXY.a), PROXY.z_bar).item() < 0.5 * before
    assert result.routing == [[0.0, 0.0, 1.0]] * 30
    assert set(result.metrics[-1]) == {"proxy_kl_loss", "proxy_lb_loss"}
    assert result.metrics[-1]["proxy_lb_loss"] == pytest.approx(0.0, abs=1e-7)


def test_on_paired_proxy_items_the_gate_chooses_among_all() -> None:
    world = World(outputs=3)
    paired = ProxyItems(PROXY.a, noise(40, 6, seed=5), PROXY.z_bar)
    with torch.no_grad():
        world.gate.fc2.bias.copy_(torch.tensor([0.0, 0.0, 50.0]))
    result = world.distil(proxy=paired, proxy_batch=10, epochs=1, optimizer=world.optimizer(lr=1e-6))
    # Three private batches of 20, where the aggregate is absent, and three proxy batches of 10, where it is wanted.
    assert result.routing[0][2] == pytest.approx(30 / 90)
    assert set(result.metrics[0]) == {"task_loss", "kl_loss", "lb_loss", "proxy_kl_loss", "proxy_lb_loss"}


def test_proxy_items_do_not_move_the_order_of_private_batches() -> None:
    plain, taught = World(outputs=3), World(outputs=3)
    taught.student.load_state_dict(snapshot(plain.student))
    found = []
    for world, proxy in ((plain, None), (taught, PROXY)):
        still = world.optimizer(lr=0.0)
        found.append(world.distil(proxy=proxy, epochs=2, batch=7, optimizer=still).metrics[1]["task_loss"])
    assert found[0] == found[1]


def test_a_client_of_one_modality_learns_from_labels_and_the_aggregate() -> None:
    world = World(outputs=1)
    world.specialists = None
    one = Paired(TRAIN.a, None, TRAIN.y)
    result = world.distil(one, VAL, proxy=PROXY, epochs=5)
    assert set(result.metrics[-1]) == {"task_loss", "proxy_kl_loss", "proxy_lb_loss"}
    assert result.val_losses[-1] < result.val_losses[0]
    assert set(world.distil(one).metrics[-1]) == {"task_loss"}


def test_a_gate_of_the_wrong_width_is_refused() -> None:
    with pytest.raises(ConfigError, match="the gate has 1 outputs for 2 teachers"):
        World(outputs=1).distil()
    with pytest.raises(ConfigError, match="the gate has 0 outputs for 1 teachers"):
        World(outputs=2).distil(proxy=PROXY)


def test_dense_outputs_are_distilled_per_image() -> None:
    images = noise(8, 1, 6, 5)
    data = Paired(images, images.flip(-1), (images[:, 0] > 0).long())

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 2, 1)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(self.body(torch.cat([a, b], dim=1)).relu())

    def single() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 2, 1))

    nets = Networks(Both(), single(), single())
    config = MSTDistillConfig(teacher_layers="body", auxiliary_layers="0", gate_grad="weighted")
    mixture = build_specialists(nets, config, data.a[:2], images[:2])
    gate = GateNetDense(2, 2)
    optimizer = optim.Adam([*nets.student.parameters(), *gate.parameters()], 1e-2)
    result = distil(
        nets.student, gate, mixture, data, data, optimizer, config=config, epochs=20, batch=4, rng=streams()
    )
    assert result.val_losses[-1] < 0.9 * result.val_losses[0]

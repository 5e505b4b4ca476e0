import pytest
import torch
from torch import nn

from fedkd.models.config import ModelConfig
from fedkd.models.pool import ModelPool, snapshot

OTHER = "tests.models.test_build:own_model"


@pytest.fixture
def pool() -> ModelPool:
    return ModelPool(ModelConfig(name=f"mlp, {OTHER}", hidden=4), (1, 2, 2), 3)


def test_clients_of_one_architecture_share_a_live_module(pool: ModelPool) -> None:
    weights = pool.for_client(0).fresh()
    first = pool.for_client(0).load("student", weights)
    assert pool.for_client(2).load("student", weights) is first
    assert pool.for_client(0).load("ema", weights) is not first


def test_architectures_are_dealt_out_in_turn(pool: ModelPool) -> None:
    assert [len(pool.for_client(i).fresh()) for i in range(4)] == [4, 2, 4, 2]
    assert [pool.for_client(i).architecture for i in range(3)] == ["mlp", OTHER, "mlp"]
    assert pool.live("mlp", "student") is not pool.live(OTHER, "student")


def test_loading_never_moves_the_random_state_of_the_caller(pool: ModelPool) -> None:
    weights = pool.for_client(0).fresh()
    before = torch.random.get_rng_state()
    pool.for_client(0).load("student", weights)  # builds the live module
    pool.live(OTHER, "student")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_fresh_weights_come_from_the_random_state_of_the_caller(pool: ModelPool) -> None:
    made = []
    for seed in (5, 5, 6):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made.append(pool.for_client(0).fresh()["1.weight"])
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_the_module_holds_the_weights_loaded_last_and_no_gradient(pool: ModelPool) -> None:
    models = pool.for_client(0)
    first, second = models.fresh(), models.fresh()
    model = models.load("student", first)
    model(torch.ones(1, 1, 2, 2)).sum().backward()
    models.load("student", second)
    assert torch.equal(next(model.parameters()), second["1.weight"])
    assert all(p.grad is None for p in model.parameters())


def test_training_touches_neither_what_was_loaded_nor_a_snapshot(pool: ModelPool) -> None:
    models = pool.for_client(0)
    weights = models.fresh()
    model = models.load("student", weights)
    loaded, taken = weights["1.weight"].clone(), snapshot(model)
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert torch.equal(weights["1.weight"], loaded)
    assert torch.equal(taken["1.weight"], loaded)
    assert torch.equal(snapshot(model)["1.weight"], loaded + 1.0)


def test_a_snapshot_holds_buffers_too() -> None:
    norm = nn.BatchNorm1d(2)
    norm(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
    assert snapshot(norm)["running_mean"].tolist() == pytest.approx([0.1, 0.3])
    assert snapshot(norm)["num_batches_tracked"].item() == 1

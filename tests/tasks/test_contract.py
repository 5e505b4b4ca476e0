"""What every task in the table must keep."""

import dataclasses

import numpy as np
import pytest
import torch

from fedkd.data.proxy import row_ids
from fedkd.lookup import resolve
from fedkd.rows import KINDS
from fedkd.tasks import TASKS
from fedkd.tasks.base import Task
from fedkd.testing.toys import TOYS, Toy, elsewhere

pytestmark = [pytest.mark.usefixtures("one_torch_thread"), pytest.mark.parametrize("name", TASKS)]


def trained(toy: Toy, *, steps: int) -> torch.nn.Module:
    """A model after some steps on the task's private loss."""
    ctx = toy.context()
    with ctx.torch_rng("init"):
        model = ctx.models.load("student", ctx.models.fresh())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(ctx.task.loss(model, ctx.task.batch(toy.train, np.arange(len(toy.train)), "cpu")))
        optimizer.step()
    return model


def test_the_entry_is_final_and_its_config_frozen(name: str) -> None:
    cls = resolve(TASKS, name, what="task")
    assert issubclass(cls, Task)
    assert cls.__final__
    assert cls.name == name
    assert cls.kind in KINDS
    assert cls.Config.__dataclass_params__.frozen
    assert all(type(field.default) in {bool, int, float, str} for field in dataclasses.fields(cls.Config))


def test_there_is_a_toy_of_it(name: str) -> None:
    assert TOYS[name].task == TOYS[name].made_task().name == name


@pytest.mark.parametrize("is_other", [False, True])
def test_whoever_minimises_its_loss_gets_good_by_its_metric(name: str, is_other: bool) -> None:
    toy = elsewhere(TOYS[name]) if is_other else TOYS[name]
    task, ids = toy.made_task(), toy.rows_of_test()
    scores = []
    for steps in (0, 100):
        rows = task.predict(trained(toy, steps=steps), toy.test, ids, batch_size=7)
        scores.append(task.finish(task.tally(rows, toy.test)).score)
    assert [toy.is_learned(score) for score in scores] == [False, True]
    assert (scores[1] > scores[0]) == task.metric_higher_is_better


def test_rows_are_those_of_logits_whatever_the_batch_and_the_order(name: str) -> None:
    toy = TOYS[name]
    task, model = toy.made_task(), trained(toy, steps=1)
    model.eval()
    size, width = len(toy.test), task.rows_per_sample
    with torch.no_grad():
        table = task.logits(model, task.batch(toy.test, np.arange(size), "cpu")).numpy()
    assert table.shape == (size, width, task.num_outputs)
    ids = np.random.default_rng(0).permutation(size * width)[: size * width // 2]
    made = task.predict(model, toy.test, ids, batch_size=3)
    np.testing.assert_array_equal(made.ids, ids)
    np.testing.assert_allclose(made.values, table.reshape(size * width, -1)[ids], rtol=1e-4, atol=1e-5)
    assert (made.space, made.kind, made.values.dtype) == ("proxy", task.kind, np.float32)
    assert task.predict(model, toy.test, ids[:0], batch_size=3).values.shape == (0, task.num_outputs)


def test_a_proxy_sample_needs_no_targets(name: str) -> None:
    toy = TOYS[name]
    task, model, bare = toy.made_task(), trained(toy, steps=0), toy.public.inputs()
    made = task.predict(model, bare, row_ids(np.arange(3), task.rows_per_sample, task.valid(bare)), batch_size=2)
    assert len(made)
    assert np.isfinite(made.values).all()


def test_figures_add_up_over_blocks_and_are_plain_finite_numbers(name: str) -> None:
    toy = TOYS[name]
    task, model, size = toy.made_task(), trained(toy, steps=2), len(toy.test)
    tallies = []
    for index in (np.arange(size), np.arange(7), np.arange(7, size)):
        part = toy.test.take(index)
        ids = row_ids(np.arange(len(part)), task.rows_per_sample, task.valid(part))
        tallies.append(task.tally(task.predict(model, part, ids, batch_size=50), part))
    whole, *parts = tallies
    added = {key: parts[0][key] + parts[1][key] for key in whole}
    found = task.finish(added)
    assert found.metrics == pytest.approx(task.finish(whole).metrics)
    assert found.metrics[task.metric] == found.score
    assert all(type(value) is float and np.isfinite(value) for value in found.metrics.values())
    assert {key: table.shape for key, table in found.tables.items()} == dict(task.table_shapes)


def test_the_model_answers_in_evaluation_mode_and_goes_back_to_its_own(name: str) -> None:
    toy = TOYS[name]
    task, model = toy.made_task(), trained(toy, steps=0)
    modes: list[bool] = []
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    for is_training in (True, False):
        model.train(is_training)
        task.predict(model, toy.test, toy.rows_of_test(), batch_size=50)
        assert modes.pop() is False
        assert model.training is is_training
        assert all(p.grad is None for p in model.parameters())

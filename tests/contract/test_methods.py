"""What every local trainer in the table must keep. A new method gets these tests by its line in METHODS."""

import dataclasses
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedkd.errors import ConfigError
from fedkd.exchange.combine import by_stream, masked_mean
from fedkd.exchange.extras import EXTRAS
from fedkd.exchange.float_codecs import Float16, FloatConfig
from fedkd.experiment import Experiment, load_flat
from fedkd.federation.border import Expected, check_share
from fedkd.functional.aggregation import softmax
from fedkd.lookup import resolve
from fedkd.methods import METHODS
from fedkd.methods.base import LocalTrainer, State, streams_of
from fedkd.models.config import ModelConfig
from fedkd.rows import Knowledge, Rows, Share
from fedkd.tasks import TASKS
from fedkd.types import Array, Ids
from tests.contract.toys import QUICK, TOYS, Toy, digest_of, elsewhere, rows, stored, trainer_of

pytestmark = [pytest.mark.usefixtures("one_torch_thread")]

PAIRS = [(name, task) for name, path in METHODS.items() for task in sorted(resolve(METHODS, path, what="method").tasks)]
every_method = pytest.mark.parametrize("name", METHODS)
every_pair = pytest.mark.parametrize(
    ("name", "toy"), [(name, TOYS[task]) for name, task in PAIRS], ids=["-".join(pair) for pair in PAIRS]
)

NOTHING = Knowledge()
NOBODY = np.zeros(0, np.int64)


def knowledge_of(trainer: LocalTrainer, toy: Toy, sample_ids: Any, *, scale: float = 1.0) -> Knowledge:
    """What a server may send back to this trainer about proxy samples (or classes), in the kind that it shares."""
    (kind,) = trainer.kinds
    ids = toy.rows_of(sample_ids) if trainer.space == "proxy" else np.array(sample_ids)
    width = toy.made_task().num_outputs
    values = 2 * np.random.default_rng(0).normal(size=(int(ids.max()) + 1, width))[ids] * scale
    if kind == "probs":
        values = softmax(np.clip(values, -80, 80))
    return Knowledge(common=(rows(ids, values, kind=kind, space=trainer.space),))


def speak(trainer: LocalTrainer, toy: Toy, state: State, *, round_id: int = 0, ids: Ids | None = None) -> Share:
    """The share of a client as a worker makes it."""
    ctx = toy.context(round_id)
    said = trainer.predict(ctx, state, toy.public.inputs(), toy.accepted if ids is None else ids)
    return trainer.share(ctx, state, said if trainer.space == "proxy" else ())


def go(trainer: LocalTrainer, toy: Toy, state: State, knowledge: Knowledge, rounds: range) -> tuple[State, Knowledge]:
    """Rounds in which the client hears the mean of what it said itself."""
    for round_id in rounds:
        state, _ = trainer.fit(toy.context(round_id), state, knowledge)
        streams = by_stream([speak(trainer, toy, state, round_id=round_id)])
        knowledge = Knowledge(common=tuple(masked_mean(streams[key]) for key in sorted(streams)))
    return state, knowledge


def fitted(name: str, toy: Toy, knowledge: Knowledge = NOTHING) -> State:
    """The state after a round of training; round 1, since a joint trainer waits in round 0."""
    trainer = trainer_of(name)
    state, _ = trainer.fit(toy.context(1), trainer.init(toy.context()), knowledge)
    return state


def legal(trainer: LocalTrainer, share: Share, toy: Toy) -> Share:
    """The share, if the border lets it pass."""
    task = toy.made_task()
    asked = np.zeros(len(toy.public) * task.rows_per_sample, np.bool_)
    asked[toy.rows_of(np.arange(len(toy.public)))] = True
    expected = Expected(
        round_id=share.round_id,
        streams=streams_of(trainer, task),
        asked=asked if trainer.space == "proxy" else None,
        num_classes=task.num_outputs,
        rows_per_sample=task.rows_per_sample,
        extras=trainer.extras,
    )
    return check_share(share, toy.client_id, expected)


@every_method
def test_the_entry_is_final_and_its_config_frozen(name: str) -> None:
    cls = resolve(METHODS, name, what="method")
    assert issubclass(cls, LocalTrainer)
    assert cls.__final__
    assert cls.Config.__dataclass_params__.frozen
    assert all(type(field.default) in {bool, int, float, str} for field in dataclasses.fields(cls.Config))


@every_pair
def test_its_streams_are_of_the_space_and_the_kinds_that_it_declares(name: str, toy: Toy) -> None:
    """Combinations of choices are checked on these, before there is a task."""
    trainer = trainer_of(name)
    streams = streams_of(trainer, toy.made_task())
    assert streams[0].space == trainer.space
    assert {stream.kind for stream in streams} == trainer.kinds
    assert trainer.extras <= set(EXTRAS) or all(":" in kind for kind in trainer.extras - set(EXTRAS))


@every_method
def test_config_round_trip(name: str) -> None:
    defaults = dataclasses.asdict(Experiment.build({"method.name": name}).method.config)
    options = {f"method.{key}": value / 2 for key, value in defaults.items() if isinstance(value, float)}
    first = Experiment.build({"method.name": name, **options})
    for again in (Experiment.build(first.flat()), Experiment.build(load_flat(first.to_toml(), origin="x"))):
        assert again.method.config == first.method.config
        assert again.flat() == first.flat()
    assert (first.method.config == trainer_of(name).Config()) == (not options)


@pytest.mark.parametrize("truth", [False, True])  # whoever does not learn is wrong in one of the two worlds
@every_pair
def test_it_learns_a_toy_task(name: str, toy: Toy, truth: bool) -> None:
    trainer, toy = trainer_of(name), replace(elsewhere(toy) if truth else toy, schedule=toy.learning)
    start = trainer.init(toy.context())
    assert not toy.is_learned(trainer.evaluate(toy.context(), start, toy.test).score)
    state, _ = go(trainer, toy, start, NOTHING, range(1, 9))
    assert toy.is_learned(trainer.evaluate(toy.context(), state, toy.test).score)


@every_pair
def test_the_score_is_the_figure_that_the_metric_names(name: str, toy: Toy) -> None:
    trainer, task = trainer_of(name), toy.made_task()
    found = trainer.evaluate(toy.context(), fitted(name, toy), toy.test)
    assert found.metrics[trainer.metric or task.metric] == found.score
    assert all(type(value) is float and np.isfinite(value) for value in found.metrics.values())
    for table, array in found.tables.items():
        assert (array.dtype.kind, array.shape) == ("i", task.table_shapes[table])


@every_pair
def test_round_zero_has_no_knowledge(name: str, toy: Toy) -> None:
    """A trainer trains on its own, or waits for the first aggregate; a round in which it does not wait has numbers."""
    trainer = trainer_of(name)
    start = trainer.init(toy.context())
    state, metrics = trainer.fit(toy.context(), start, NOTHING)
    assert (digest_of(state) != digest_of(start)) == bool(metrics)
    later, more = trainer.fit(toy.context(1), state, NOTHING)
    assert digest_of(later) != digest_of(state)
    assert more
    assert all(type(value) is float and np.isfinite(value) for value in (*metrics.values(), *more.values()))


@every_pair
def test_batch_norm_trains_though_each_pass_would_end_in_a_batch_of_one(name: str, toy: Toy) -> None:
    trainer = trainer_of(name)
    toy = replace(
        toy, train=toy.train.take(np.arange(17)), model=ModelConfig(name=toy.normed, hidden=8), schedule=QUICK
    )
    assert (len(toy.train) % toy.schedule.private_batch, 13 % toy.schedule.distil_batch) == (1, 1)
    start = trainer.init(toy.context())
    known = range(13 if trainer.space == "proxy" else toy.classes)
    state, _ = trainer.fit(toy.context(1), start, knowledge_of(trainer, toy, known))
    assert_finite(state)
    assert digest_of(state) != digest_of(start)
    assert digest_of(stored(state)) == digest_of(state)
    legal(trainer, speak(trainer, toy, state), toy)


@every_pair
def test_one_row_of_knowledge_is_heard(name: str, toy: Toy) -> None:
    trainer = trainer_of(name)
    (several,) = knowledge_of(trainer, toy, [1]).common
    heard = fitted(name, toy, Knowledge(common=(several.where(np.arange(len(several)) == 0),)))
    assert digest_of(heard) != digest_of(fitted(name, toy))
    assert_finite(heard)


@every_pair
def test_nothing_accepted_is_a_legal_share(name: str, toy: Toy) -> None:
    trainer = trainer_of(name)
    for state in (trainer.init(toy.context()), fitted(name, toy)):
        share = legal(trainer, speak(trainer, toy, state, ids=NOBODY), toy)
        assert all(len(made) == 0 for made in share.rows if made.space == "proxy")


@pytest.mark.parametrize("samples", [[5], list(range(16))])
@every_pair
def test_what_is_accepted_is_said_and_nothing_else(name: str, toy: Toy, samples: list[int]) -> None:
    trainer, ids = trainer_of(name), toy.rows_of(samples)
    share = legal(trainer, speak(trainer, toy, fitted(name, toy), ids=ids), toy)
    assert (share.client_id, share.round_id) == (toy.client_id, 0)
    assert any(len(made) for made in share.rows)
    for made in share.rows:
        assert made.values.dtype == np.float32
        if made.space == "proxy":
            assert set(made.ids) <= set(ids)


@every_pair
def test_same_seed_same_result_whatever_torch_drew_before(name: str, toy: Toy) -> None:
    trainer, knowledge = trainer_of(name), knowledge_of(trainer_of(name), toy, [0, 1])
    results = []
    for global_seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            before = torch.random.get_rng_state()
            state, said = go(trainer, toy, trainer.init(toy.context()), knowledge, range(2))
            assert torch.equal(torch.random.get_rng_state(), before)  # nor does it move what torch draws next
        results.append((digest_of(state), [made.values.tobytes() for made in said.common]))
    assert results[0] == results[1]


@every_pair
def test_another_seed_or_client_another_result(name: str, toy: Toy) -> None:
    toys = (toy, replace(toy, seed=1), replace(toy, client_id=4))
    assert len({digest_of(fitted(name, each)) for each in toys}) == 3


@every_pair
def test_resume_equals_straight_run(name: str, toy: Toy) -> None:
    trainer = trainer_of(name)
    straight, _ = go(trainer, toy, trainer.init(toy.context()), NOTHING, range(4))
    state, knowledge = go(trainer, toy, trainer.init(toy.context()), NOTHING, range(2))
    resumed, _ = go(trainer_of(name), toy, stored(state), knowledge, range(2, 4))
    assert digest_of(resumed) == digest_of(straight)


@every_pair
def test_a_state_survives_storage_unchanged(name: str, toy: Toy) -> None:
    for state in (trainer_of(name).init(toy.context()), fitted(name, toy)):
        assert digest_of(stored(state)) == digest_of(state)  # to_parcel refuses what is not plain


@every_pair
def test_what_goes_in_is_not_touched(name: str, toy: Toy) -> None:
    trainer = trainer_of(name)
    state, knowledge = fitted(name, toy), knowledge_of(trainer, toy, [0, 1])
    before, heard = digest_of(state), knowledge.common[0].values.copy()
    after, _ = trainer.fit(toy.context(1), state, knowledge)
    trainer.fit(toy.context(2), after, knowledge)
    speak(trainer, toy, state)
    assert digest_of(state) == before
    np.testing.assert_array_equal(knowledge.common[0].values, heard)


@every_pair
def test_predicting_twice_says_the_same(name: str, toy: Toy) -> None:
    trainer, state = trainer_of(name), fitted(name, toy)
    ctx, ids = toy.context(), toy.rows_of_test()
    first, second = (said(trainer, toy, ctx, state, ids) for _ in range(2))
    assert all(np.array_equal(*views) for views in zip(first, second, strict=True))
    if not trainer.rows_stand_alone:
        return
    cut = len(ids) // 3
    parts = [said(trainer, toy, ctx, state, at)[0] for at in (ids[:cut], ids[cut:])]
    # A row depends on its sample alone.
    np.testing.assert_allclose(np.concatenate(parts), first[0], rtol=1e-5, atol=1e-6)


@every_pair
def test_the_closing_message_trains_on_nothing_private(name: str, toy: Toy) -> None:
    trainer, state = trainer_of(name), fitted(name, toy)
    ctx, ids = toy.context(4, closing=True), toy.rows_of_test()
    closed, _ = trainer.fit(ctx, state, NOTHING)
    for before, after in zip(*(said(trainer, toy, ctx, each, ids) for each in (state, closed)), strict=True):
        np.testing.assert_array_equal(before, after)
    knowledge = knowledge_of(trainer, toy, [0, 1])
    digested, _ = trainer.fit(ctx, state, knowledge)
    there, _ = trainer.fit(elsewhere(toy).context(4, closing=True), state, knowledge)
    assert digest_of(digested) == digest_of(there)


@every_pair
def test_knowledge_in_half_precision_stays_finite(name: str, toy: Toy) -> None:
    trainer, codec = trainer_of(name), Float16(FloatConfig())
    (extreme,) = knowledge_of(trainer, toy, [0, 1], scale=1e6).common
    coded = codec.decode(codec.encode(extreme))
    state, metrics = trainer.fit(toy.context(), trainer.init(toy.context()), Knowledge(common=(coded,)))
    assert_finite(state)
    assert all(np.isfinite(value) for value in metrics.values())
    share = speak(trainer, toy, state)
    there = [codec.decode(codec.encode(made)) for made in share.rows]
    legal(trainer, replace(share, rows=tuple(there)), toy)


@every_method
def test_a_task_that_it_does_not_declare_is_refused(name: str) -> None:
    for task in {*TASKS, "tests.contract.toys:Oddity"} - trainer_of(name).tasks:
        experiment = Experiment.build(
            {"method.name": name, "task.name": task, "scheme.name": "none", "filter.name": "accept_all"}
        )
        with pytest.raises(ConfigError, match=f"method '{name}' does not train task '{task}', only .*another method"):
            experiment.check()


def said(trainer: LocalTrainer, toy: Toy, ctx: Any, state: State, ids: Ids) -> list[Array]:
    """Predictions on the test set, view by view."""
    made: tuple[Rows, ...] = trainer.predict(ctx, state, toy.test, ids)
    return [view.values for view in made]


def assert_finite(tree: Any) -> None:
    """No NaN and no infinity in any tensor of the state."""
    if isinstance(tree, torch.Tensor):
        assert tree.isfinite().all()
    elif isinstance(tree, dict | list):
        for node in tree.values() if isinstance(tree, dict) else tree:
            assert_finite(node)

"""What every local trainer in the table must keep. A new method gets these tests by its line in METHODS."""

import dataclasses
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedkd.data.base import Samples
from fedkd.errors import ConfigError
from fedkd.exchange.combine import by_stream, masked_mean
from fedkd.exchange.extras import EXTRAS
from fedkd.exchange.float_codecs import Float16, FloatConfig
from fedkd.experiment import Experiment, load_flat
from fedkd.federation.border import Expected, check_share
from fedkd.lookup import resolve
from fedkd.methods import METHODS
from fedkd.methods.base import LocalTrainer, State, streams_of
from fedkd.methods.schedule import ScheduleConfig
from fedkd.models.config import ModelConfig
from fedkd.rows import Knowledge, Rows, Share
from fedkd.types import Ids
from tests.contract.toys import Toy, blobs, digest_of, rows, stored, trainer_of

pytestmark = [pytest.mark.usefixtures("one_torch_thread"), pytest.mark.parametrize("name", METHODS)]

NOTHING = Knowledge()
NOBODY = np.zeros(0, np.int64)


def knowledge_of(trainer: LocalTrainer, ids: list[int], *, scale: float = 1.0) -> Knowledge:
    """What a server may send back to this trainer, in the kind that it shares."""
    (kind,) = trainer.kinds
    values = scale * np.array([[2.0, -1.0], [-0.5, 1.5]], np.float32)[np.array(ids) % 2]
    if kind == "probs":
        values = 1 / (1 + np.exp(-np.clip(values, -80, 80)))
        values /= values.sum(1, keepdims=True)
    return Knowledge(common=(rows(ids, values, kind=kind, space=trainer.space),))


def speak(trainer: LocalTrainer, toy: Toy, state: State, *, round_id: int = 0, ids: Ids | None = None) -> Share:
    """The share of a client as a worker makes it."""
    ctx = toy.context(round_id)
    said = trainer.predict(ctx, state, Samples(toy.public.x), toy.accepted if ids is None else ids)
    return trainer.share(ctx, state, said if trainer.space == "proxy" else ())


def go(trainer: LocalTrainer, toy: Toy, state: State, knowledge: Knowledge, rounds: range) -> tuple[State, Knowledge]:
    """Rounds in which the client hears the mean of what it said itself."""
    for round_id in rounds:
        state, _ = trainer.fit(toy.context(round_id), state, knowledge)
        streams = by_stream([speak(trainer, toy, state, round_id=round_id)])
        knowledge = Knowledge(common=tuple(masked_mean(streams[key]) for key in sorted(streams)))
    return state, knowledge


def fitted(name: str, knowledge: Knowledge = NOTHING, *, toy: Toy | None = None) -> State:
    """The state after a round of training; round 1, since a joint trainer waits in round 0."""
    trainer, toy = trainer_of(name), toy or Toy()
    state, _ = trainer.fit(toy.context(1), trainer.init(toy.context()), knowledge)
    return state


def legal(trainer: LocalTrainer, share: Share, toy: Toy) -> Share:
    """The share, if the border lets it pass."""
    size = len(toy.public)
    expected = Expected(
        round_id=share.round_id,
        streams=streams_of(trainer, toy.context().task),
        asked=np.ones(size, np.bool_) if trainer.space == "proxy" else None,
        num_classes=toy.classes,
        extras=trainer.extras,
    )
    return check_share(share, toy.client_id, expected)


def test_the_entry_is_final_and_its_config_frozen(name: str) -> None:
    cls = resolve(METHODS, name, what="method")
    assert issubclass(cls, LocalTrainer)
    assert cls.__final__
    assert cls.Config.__dataclass_params__.frozen
    assert all(type(field.default) in {bool, int, float, str} for field in dataclasses.fields(cls.Config))


def test_its_streams_are_of_the_space_and_the_kinds_that_it_declares(name: str) -> None:
    """Combinations of choices are checked on these, before there is a task."""
    trainer = trainer_of(name)
    streams = streams_of(trainer, Toy().context().task)
    assert streams[0].space == trainer.space
    assert {stream.kind for stream in streams} == trainer.kinds
    assert trainer.extras <= set(EXTRAS) or all(":" in kind for kind in trainer.extras - set(EXTRAS))


def test_config_round_trip(name: str) -> None:
    defaults = dataclasses.asdict(Experiment.build({"method.name": name}).method.config)
    options = {f"method.{key}": value / 2 for key, value in defaults.items() if isinstance(value, float)}
    first = Experiment.build({"method.name": name, **options})
    for again in (Experiment.build(first.flat()), Experiment.build(load_flat(first.to_toml(), origin="x"))):
        assert again.method.config == first.method.config
        assert again.flat() == first.flat()
    assert (first.method.config == trainer_of(name).Config()) == (not options)


def test_it_learns_a_toy_task(name: str) -> None:
    trainer = trainer_of(name)
    for labels in (Toy.test.labels, 1 - Toy.test.labels):  # whoever does not learn is wrong for one of them
        x, y = Toy().train.x, Toy().train.labels
        train = Samples(x, y if labels is Toy.test.labels else 1 - y)
        toy = Toy(train=train, schedule=ScheduleConfig(private_steps=20, private_batch=8))
        state, _ = go(trainer, toy, trainer.init(toy.context()), NOTHING, range(1, 9))
        said = trainer.predict(toy.context(), state, toy.test, np.arange(len(toy.test)))[0]
        assert (said.values.argmax(1) == labels).mean() > 0.95


def test_round_zero_has_no_knowledge(name: str) -> None:
    """A trainer trains on its own, or waits for the first aggregate; a round in which it does not wait has numbers."""
    trainer, toy = trainer_of(name), Toy()
    start = trainer.init(toy.context())
    state, metrics = trainer.fit(toy.context(), start, NOTHING)
    assert (digest_of(state) != digest_of(start)) == bool(metrics)
    later, more = trainer.fit(toy.context(1), state, NOTHING)
    assert digest_of(later) != digest_of(state)
    assert more
    assert all(type(value) is float and np.isfinite(value) for value in (*metrics.values(), *more.values()))


def test_batch_norm_trains_though_each_pass_would_end_in_a_batch_of_one(name: str) -> None:
    trainer = trainer_of(name)
    toy = Toy(train=blobs([0, 1] * 8 + [0], seed=1), model=ModelConfig(name="tests.contract.toys:normed", hidden=8))
    assert (len(toy.train) % toy.schedule.private_batch, 13 % toy.schedule.distil_batch) == (1, 1)
    start = trainer.init(toy.context())
    ids = list(range(13 if trainer.space == "proxy" else toy.classes))
    state, _ = trainer.fit(toy.context(1), start, knowledge_of(trainer, ids))
    assert_finite(state)
    assert digest_of(state) != digest_of(start)
    assert digest_of(stored(state)) == digest_of(state)
    legal(trainer, speak(trainer, toy, state), toy)


def test_one_row_of_knowledge_is_heard(name: str) -> None:
    trainer = trainer_of(name)
    heard = fitted(name, knowledge_of(trainer, [1]))
    assert digest_of(heard) != digest_of(fitted(name))
    assert_finite(heard)


def test_nothing_accepted_is_a_legal_share(name: str) -> None:
    trainer, toy = trainer_of(name), Toy()
    for state in (trainer.init(toy.context()), fitted(name)):
        share = legal(trainer, speak(trainer, toy, state, ids=NOBODY), toy)
        assert all(len(made) == 0 for made in share.rows if made.space == "proxy")


@pytest.mark.parametrize("ids", [[5], list(range(16))])
def test_what_is_accepted_is_said_and_nothing_else(name: str, ids: list[int]) -> None:
    trainer, toy = trainer_of(name), Toy()
    share = legal(trainer, speak(trainer, toy, fitted(name), ids=np.array(ids)), toy)
    assert (share.client_id, share.round_id) == (toy.client_id, 0)
    assert any(len(made) for made in share.rows)
    for made in share.rows:
        assert made.values.dtype == np.float32
        if made.space == "proxy":
            assert set(made.ids) <= set(ids)


def test_same_seed_same_result_whatever_torch_drew_before(name: str) -> None:
    trainer, knowledge = trainer_of(name), knowledge_of(trainer_of(name), [0, 1])
    results = []
    for global_seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            before = torch.random.get_rng_state()
            toy = Toy()
            state, said = go(trainer, toy, trainer.init(toy.context()), knowledge, range(2))
            assert torch.equal(torch.random.get_rng_state(), before)  # nor does it move what torch draws next
        results.append((digest_of(state), [made.values.tobytes() for made in said.common]))
    assert results[0] == results[1]


def test_another_seed_or_client_another_result(name: str) -> None:
    toys = (Toy(), Toy(seed=1), Toy(client_id=4))
    assert len({digest_of(fitted(name, toy=toy)) for toy in toys}) == 3


def test_resume_equals_straight_run(name: str) -> None:
    trainer, toy = trainer_of(name), Toy()
    straight, _ = go(trainer, toy, trainer.init(toy.context()), NOTHING, range(4))
    state, knowledge = go(trainer, Toy(), trainer.init(Toy().context()), NOTHING, range(2))
    resumed, _ = go(trainer_of(name), Toy(), stored(state), knowledge, range(2, 4))
    assert digest_of(resumed) == digest_of(straight)


def test_a_state_survives_storage_unchanged(name: str) -> None:
    for state in (trainer_of(name).init(Toy().context()), fitted(name)):
        assert digest_of(stored(state)) == digest_of(state)  # to_parcel refuses what is not plain


def test_what_goes_in_is_not_touched(name: str) -> None:
    trainer, toy = trainer_of(name), Toy()
    state, knowledge = fitted(name), knowledge_of(trainer, [0, 1])
    before, heard = digest_of(state), knowledge.common[0].values.copy()
    after, _ = trainer.fit(toy.context(1), state, knowledge)
    trainer.fit(toy.context(2), after, knowledge)
    speak(trainer, toy, state)
    assert digest_of(state) == before
    np.testing.assert_array_equal(knowledge.common[0].values, heard)


def test_predicting_twice_says_the_same(name: str) -> None:
    trainer, state = trainer_of(name), fitted(name)
    ctx = Toy().context()
    first, second = (said(trainer, ctx, state) for _ in range(2))
    assert first == second
    if not trainer.rows_stand_alone:
        return
    parts = [said(trainer, ctx, state, at) for at in (range(7), range(7, 60))]  # a row depends on its sample alone
    np.testing.assert_allclose(
        np.concatenate([np.frombuffer(p[0], np.float32) for p in parts]), np.frombuffer(first[0], np.float32), rtol=1e-5
    )


def test_the_closing_message_trains_on_nothing_private(name: str) -> None:
    trainer, state = trainer_of(name), fitted(name)
    ctx = Toy().context(4, closing=True)
    closed, _ = trainer.fit(ctx, state, NOTHING)
    assert said(trainer, ctx, closed) == said(trainer, ctx, state)
    others = Samples(Toy().train.x[::-1].copy(), 1 - Toy().train.labels)
    knowledge = knowledge_of(trainer, [0, 1])
    digested, _ = trainer.fit(ctx, state, knowledge)
    elsewhere, _ = trainer.fit(Toy(train=others).context(4, closing=True), state, knowledge)
    assert digest_of(digested) == digest_of(elsewhere)


def test_knowledge_in_half_precision_stays_finite(name: str) -> None:
    trainer, codec = trainer_of(name), Float16(FloatConfig())
    (extreme,) = knowledge_of(trainer, [0, 1], scale=1e6).common
    coded = codec.decode(codec.encode(extreme))
    toy = Toy()
    state, metrics = trainer.fit(toy.context(), trainer.init(toy.context()), Knowledge(common=(coded,)))
    assert_finite(state)
    assert all(np.isfinite(value) for value in metrics.values())
    share = speak(trainer, toy, state)
    there = [codec.decode(codec.encode(made)) for made in share.rows]
    legal(trainer, replace(share, rows=tuple(there)), toy)


def test_a_task_that_it_does_not_declare_is_refused(name: str) -> None:
    experiment = Experiment.build(
        {"method.name": name, "task": "tests.contract.toys:Oddity", "scheme.name": "none", "filter.name": "accept_all"}
    )
    with pytest.raises(
        ConfigError, match=f"method '{name}' does not train task .*Oddity', only .*choose another method"
    ):
        experiment.check()


def said(trainer: LocalTrainer, ctx: Any, state: State, at: range = range(60)) -> list[bytes]:
    """Predictions on the test set, as bytes."""
    made: tuple[Rows, ...] = trainer.predict(ctx, state, Toy.test, np.array(at))
    return [view.values.tobytes() for view in made]


def assert_finite(tree: Any) -> None:
    """No NaN and no infinity in any tensor of the state."""
    if isinstance(tree, torch.Tensor):
        assert tree.isfinite().all()
    elif isinstance(tree, dict | list):
        for node in tree.values() if isinstance(tree, dict) else tree:
            assert_finite(node)

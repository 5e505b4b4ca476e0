"""What every local trainer must keep, as functions that raise AssertionError with what is wrong."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch

from fedkd.errors import ConfigError
from fedkd.exchange.extras import EXTRAS
from fedkd.exchange.float_codecs import Float16, FloatConfig
from fedkd.experiment import Experiment, load_flat
from fedkd.methods.base import About, LocalTrainer
from fedkd.methods.stacked_training import train_stack
from fedkd.models.config import ModelConfig
from fedkd.rows import Knowledge, Rows
from fedkd.tasks import TASKS
from fedkd.testing.cases import NOBODY, NOTHING, Case, require, require_close, require_finite
from fedkd.testing.toys import QUICK, TOYS, Toy, digest_of, elsewhere, stored
from fedkd.types import Flat

Check: TypeAlias = Callable[[Case], None]


def check_local_trainer(
    cls: type[LocalTrainer], *, options: Flat | None = None, toys: Mapping[str, Toy] = TOYS
) -> None:
    """Run every check on a trainer, in a tiny world of each task that it declares.

    Args:
        options: flat keys (`method.steps`, `schedule.lr`, `model.name`, `roles.labelled` ...) with which it is quick
            and learns; they win over the class's own `toy_options`.
        toys: a world for each task; give your own for a task of your own.

    Raises:
        AssertionError: the first check that fails, with its name and the task.
    """
    for task in sorted(cls.tasks):
        require(task in toys, f"{cls.__name__}, task {task}: there is no toy world for this task; give one in `toys`")
        case = Case.of(cls, toys[task], options)
        for check in CHECKS:
            try:
                check(case)
            except Exception as error:  # whatever it is, who reads it has to know where it came from
                told = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
                raise AssertionError(f"{cls.__name__}, task {task}, {check.__name__}: {told}") from error


def is_declared_well(case: Case) -> None:
    """Final, documented, with a frozen Config of plain values; streams of the space and the kinds that it declares."""
    cls = case.cls
    require(getattr(cls, "__final__", False), "the class is not marked @final")
    require(isinstance(getattr(cls, "about", None), About), "`about` is missing: paper, year, selects, exchanges")
    params = getattr(cls.Config, "__dataclass_params__", None)
    require(params is not None and params.frozen, "Config is no frozen dataclass")
    odd = [each.name for each in dataclasses.fields(cls.Config) if type(each.default) not in (bool, int, float, str)]
    require(not odd, f"options {odd} are no bool, int, float or str with a default")
    streams, trainer = case.streams, case.trainer()
    require(streams[0].space == cls.space, f"the main stream is in space {streams[0].space}, not {cls.space}")
    require(
        {stream.kind for stream in streams} == set(trainer.kinds),
        f"streams have kinds {sorted({stream.kind for stream in streams})}, `kinds` says {sorted(trainer.kinds)}",
    )
    strange = {kind for kind in cls.extras if kind not in EXTRAS and ":" not in kind}
    require(not strange, f"extras {sorted(strange)} are not in the table of records")


def its_config_survives_the_way_through_files(case: Case) -> None:
    """Options come back from flat keys and from TOML."""
    name = _path(case.cls)
    defaults = dataclasses.asdict(Experiment.build({"method.name": name}).method.config)
    changed = {f"method.{key}": value for key, value in case.options.items()}
    first = Experiment.build({"method.name": name, **changed})
    for again in (Experiment.build(first.flat()), Experiment.build(load_flat(first.to_toml(), origin="x"))):
        require(again.method.config == first.method.config, "a config differs after a trip through flat keys or TOML")
    require(defaults == dataclasses.asdict(case.cls.Config()), "defaults differ from those of Config()")


def it_refuses_tasks_that_it_does_not_declare(case: Case) -> None:
    """ConfigError that names the method and the task."""
    name = _path(case.cls)
    for task in sorted(set(TASKS) - case.cls.tasks):
        keys: dict[str, Any] = {"method.name": name, "task.name": task, "scheme.name": "none"}
        try:
            Experiment.build(keys | {"filter.name": "accept_all"}).check()
        except ConfigError as error:
            require(f"does not train task '{task}'" in str(error), f"task {task} is refused with: {error}")
        else:
            raise AssertionError(f"task {task}, which it does not declare, is not refused")


def it_learns(case: Case) -> None:
    """Whatever the truth is: who does not learn is wrong in one of the two worlds."""
    for toy in (case.toy, elsewhere(case.toy)):
        there = replace(case, toy=replace(toy, schedule=toy.learning, rounds=9))
        trainer = there.trainer()
        start = trainer.init(there.toy.context())
        before = trainer.evaluate(there.toy.context(), start, toy.test).score
        state, _ = there.go(start, NOTHING, range(1, 9))
        after = trainer.evaluate(there.toy.context(), state, toy.test).score
        if case.cls.metric is None:
            require(
                toy.is_learned(after), f"{there.metric} is {after:.4g} after eight rounds, {before:.4g} before them"
            )
        else:
            better = after > before if case.cls.metric_higher_is_better else after < before
            require(better, f"{there.metric} was {before:.4g} and is {after:.4g} after eight rounds: no better")


def its_score_is_what_the_metric_names(case: Case) -> None:
    """Figures are finite floats, the score is among them, and tables have the shapes that the task says."""
    found = case.trainer().evaluate(case.toy.context(), case.fitted(), case.toy.test)
    require(found.metrics.get(case.metric) == found.score, f"metrics[{case.metric!r}] is not the score {found.score}")
    _require_floats(found.metrics)
    for table, array in found.tables.items():
        shape = case.toy.made_task().table_shapes.get(table)
        require((array.dtype.kind, array.shape) == ("i", shape), f"table {table} is {array.dtype} {array.shape}")


def round_zero_has_no_knowledge(case: Case) -> None:
    """It trains on its own, or waits for the first aggregate; a round in which it does not wait has numbers."""
    trainer = case.trainer()
    start = trainer.init(case.toy.context())
    state, metrics = trainer.fit(case.toy.context(), start, NOTHING)
    require((digest_of(state) != digest_of(start)) == bool(metrics), "round 0 trained without metrics, or the reverse")
    later, more = trainer.fit(case.toy.context(1), state, NOTHING)
    require(digest_of(later) != digest_of(state), "round 1 without knowledge changed nothing")
    require(more, "round 1 has no metrics")
    _require_floats({**metrics, **more})


def batch_norm_trains_though_a_pass_would_end_in_a_batch_of_one(case: Case) -> None:
    """Seventeen samples in batches of eight, thirteen taught samples in batches of six."""
    toy = case.toy
    if not toy.normed or case.has_own_model:
        return
    there = case.among(
        train=toy.train.take(np.arange(17)),
        model=ModelConfig(name=toy.normed, hidden=8),
        schedule=replace(toy.schedule, private_batch=QUICK.private_batch, distil_batch=QUICK.distil_batch),
    )
    trainer = there.trainer()
    start = trainer.init(there.toy.context())
    known = range(13 if case.is_in_proxy_space else toy.classes)
    state, _ = trainer.fit(there.toy.context(1), start, there.knowledge(known))
    require_finite(state, "state")
    require(digest_of(state) != digest_of(start), "nothing was trained")
    require(digest_of(stored(state)) == digest_of(state), "the state changes in storage")
    there.legal(there.speak(state))


def one_row_of_knowledge_is_heard(case: Case) -> None:
    """A single row of the main stream makes a difference."""
    several = case.knowledge([1]).common[0]
    heard = case.fitted(Knowledge(common=(several.where(np.arange(len(several)) == 0),)))
    require(digest_of(heard) != digest_of(case.fitted()), "one row of knowledge changed nothing")
    require_finite(heard, "state")


def knowledge_pulls_towards_it(case: Case) -> None:
    """Who hears a client of its own world lies nearer to that client's word than who hears one of the other world."""
    if not case.is_in_proxy_space:
        return
    trainer, words, apart = case.trainer(), [], []
    for toy in (case.toy, elsewhere(case.toy)):
        there = replace(case, toy=replace(toy, schedule=toy.learning, rounds=9))
        state = trainer.init(there.toy.context())
        for round_id in range(1, 5):
            state, _ = trainer.fit(there.toy.context(round_id), state, NOTHING)
        words.append(there.answer_to([there.speak(state, samples=range(len(toy.public)))]))
    main = words[0].common[0]
    for knowledge in words:
        state = trainer.init(case.toy.context())
        for round_id in range(4):
            state, _ = trainer.fit(case.toy.context(round_id), state, knowledge)
        ctx = case.toy.context(3)
        assert ctx.proxy is not None  # every toy has one
        said = trainer.predict(ctx, state, ctx.proxy.samples, main.ids)[0]
        apart.append(distance(said, main))
    require(
        apart[0] < apart[1], f"it is {apart[0]:.3g} away from what it heard, {apart[1]:.3g} after hearing the opposite"
    )


def distance(said: Rows, heard: Rows) -> float:
    """How far predictions are from what was heard: of noise, features and scores the mean squared difference; else the
    cross-entropy in nats of the column that was heard to be likeliest.
    """
    if heard.kind in {"noise", "feature", "score"}:
        return float(np.square(said.values - heard.values).mean())
    if heard.kind == "hard":
        likely = heard.values[:, 0]
    else:
        named = heard.values if heard.support is None else heard.values[:, :-1]
        likely = named.argmax(axis=1)
        likely = likely if heard.support is None else heard.support[np.arange(len(heard)), likely]
    logs = said.values.astype(np.float64)
    logs = np.log(np.maximum(logs, 1e-30)) if said.kind == "probs" else logs
    if said.support is not None:
        at = said.support == likely[:, None]
        return float(-np.where(at.any(axis=1), (logs[:, :-1] * at).sum(axis=1), logs[:, -1]).mean())
    logs = logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)
    return float(-logs[np.arange(len(likely)), likely].mean())


def nothing_accepted_is_a_legal_share(case: Case) -> None:
    """A client whose filter accepts nothing has nothing to say about the proxy set."""
    for state in (case.trainer().init(case.toy.context()), case.fitted()):
        share = case.legal(case.speak(state, samples=NOBODY))
        said = [len(made) for made in share.rows if made.space == "proxy"]
        require(not any(said), f"{said} rows of proxy samples are said, though none is accepted")


def what_is_accepted_is_said_and_nothing_else(case: Case) -> None:
    """One accepted sample, and all."""
    state = case.fitted()
    for samples in ([5], list(range(16))):
        ids = set(case.toy.rows_of(samples).tolist())
        share = case.legal(case.speak(state, samples=samples))
        require(any(len(made) for made in share.rows), f"nothing is said about samples {samples}")
        for made in share.rows:
            require(
                made.values.dtype == (np.int32 if made.kind == "hard" else np.float32), f"{made.values.dtype} values"
            )
            if made.space == "proxy":
                require(set(made.ids.tolist()) <= ids, "rows of samples that are not accepted are said")


def same_seed_same_result_whatever_torch_drew_before(case: Case) -> None:
    """Nor does it move what torch draws next."""
    knowledge, results = case.knowledge([0, 1]), []
    for global_seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            before = torch.random.get_rng_state()
            state, said = case.go(case.trainer().init(case.toy.context()), knowledge, range(2))
            require(torch.equal(torch.random.get_rng_state(), before), "torch's global random state has moved")
        results.append((digest_of(state), [made.values.tobytes() for made in said.common]))
    require(results[0] == results[1], "two runs with one seed differ")


def another_seed_or_client_another_result(case: Case) -> None:
    """Clients do not all start from the same numbers."""
    worlds = (case, case.among(seed=1), case.among(client_id=4))
    require(len({digest_of(each.fitted()) for each in worlds}) == 3, "another seed or client ends in the same state")


def resume_equals_the_straight_run(case: Case) -> None:
    """Two rounds, a trip through storage, two more rounds."""
    straight, _ = case.go(case.trainer().init(case.toy.context()), NOTHING, range(4))
    state, knowledge = case.go(case.trainer().init(case.toy.context()), NOTHING, range(2))
    resumed, _ = case.go(stored(state), knowledge, range(2, 4))
    require(digest_of(resumed) == digest_of(straight), "a resumed run ends in another state")


def its_state_is_plain_and_survives_storage(case: Case) -> None:
    """Tensors, numbers, texts and lists; nothing else can be stored."""
    for state in (case.trainer().init(case.toy.context()), case.fitted()):
        require(digest_of(stored(state)) == digest_of(state), "the state changes in storage")


def what_goes_in_is_not_touched(case: Case) -> None:
    """Neither state nor knowledge is changed in place."""
    trainer, state, knowledge = case.trainer(), case.fitted(), case.knowledge([0, 1])
    before, heard = digest_of(state), [made.values.copy() for made in knowledge.common]
    after, _ = trainer.fit(case.toy.context(1), state, knowledge)
    trainer.fit(case.toy.context(2), after, knowledge)
    case.speak(state)
    require(digest_of(state) == before, "a state that went in was changed")
    for made, values in zip(knowledge.common, heard, strict=True):
        require(np.array_equal(made.values, values), "knowledge that went in was changed")


def predicting_twice_says_the_same(case: Case) -> None:
    """And a row depends on its sample alone, unless the class says otherwise."""
    state, ctx, ids = case.fitted(), case.toy.context(), case.toy.rows_of_test()
    first, second = (case.views(ctx, state, ids) for _ in range(2))
    require(all(map(np.array_equal, first, second)), "two predictions of one state differ")
    if case.cls.rows_stand_alone:
        cut = len(ids) // 3
        parts = [case.views(ctx, state, at)[0] for at in (ids[:cut], ids[cut:])]
        close = np.allclose(np.concatenate(parts), first[0], rtol=1e-5, atol=1e-6)
        require(close, "a row depends on the others of its batch, but rows_stand_alone is true")


def the_closing_message_trains_on_nothing_private(case: Case) -> None:
    """Without knowledge predictions stay; with it, private data play no part."""
    trainer, state = case.trainer(), case.fitted()
    ctx, ids = case.toy.context(4, closing=True), case.toy.rows_of_test()
    closed, _ = trainer.fit(ctx, state, NOTHING)
    same = map(np.array_equal, case.views(ctx, state, ids), case.views(ctx, closed, ids))
    require(all(same), "the closing message without knowledge changed what is predicted")
    knowledge = case.knowledge([0, 1])
    digested, _ = trainer.fit(ctx, state, knowledge)
    there, _ = trainer.fit(elsewhere(case.toy).context(4, closing=True), state, knowledge)
    require(digest_of(digested) == digest_of(there), "the closing message looks at private data")


def knowledge_in_half_precision_stays_finite(case: Case) -> None:
    """Extreme values, clipped by float16 on the way, both ways."""
    codec, trainer = Float16(FloatConfig()), case.trainer()
    extreme = case.knowledge([0, 1], scale=1e6).common
    coded = tuple(codec.decode(codec.encode(made)) for made in extreme)
    state, metrics = trainer.fit(case.toy.context(), trainer.init(case.toy.context()), Knowledge(common=coded))
    require_finite(state, "state")
    _require_floats(metrics)
    share = case.speak(state)
    case.legal(replace(share, rows=tuple(codec.decode(codec.encode(made)) for made in share.rows)))


def cpu_and_gpu_agree(case: Case) -> None:
    """After a round with knowledge both predict the same but for rounding. Nothing is asked where there is no GPU."""
    if torch.cuda.is_available():
        agrees_with_cpu(case, "cuda")


def agrees_with_cpu(case: Case, device: str) -> None:
    """Predictions of a round on the device are those of the CPU, within what a few steps make of rounding.

    The device shares and is evaluated, too; a score may hang on a few samples, so it only has to be near.
    """
    said, scores = [], []
    for each in ("cpu", device):
        there = case.among(device=each)
        state = there.fitted(case.knowledge([0, 1]))
        said.append(there.views(there.toy.context(), state, case.toy.rows_of_test()))
        there.legal(there.speak(state))
        scores.append(there.trainer().evaluate(there.toy.context(), state, case.toy.test).score)
    near = abs(scores[0] - scores[1]) <= 0.1 * max(1.0, abs(scores[0]))
    require(near, f"the score on {device} is {scores[1]:.4g}, on the CPU {scores[0]:.4g}")
    for ours, theirs in zip(*said, strict=True):
        apart = float(np.abs(ours - theirs).max(initial=0.0))
        require(np.allclose(ours, theirs, rtol=1e-2, atol=1e-2), f"predictions on {device} are up to {apart:.3g} apart")


def a_lesson_teaches_what_fit_teaches(case: Case) -> None:
    """Where the trainer tells its `fit` as a lesson: two clients side by side come out as they do from `fit`."""
    trainer = case.trainer()
    require(
        (trainer.lesson is None) == (trainer.learned is None),
        "only one of `lesson` and `learned` is there: define both",
    )
    if trainer.lesson is None or trainer.learned is None:
        return
    half = case.toy.train.take(np.arange(len(case.toy.train) // 2))
    clients = [case, case.among(client_id=case.toy.client_id + 1, train=half)]
    for round_id, knowledge in enumerate((NOTHING, case.knowledge(range(2)))):
        contexts = [each.toy.context(round_id) for each in clients]
        states = [trainer.init(ctx) for ctx in contexts]
        lessons = [trainer.lesson(ctx, state, knowledge) for ctx, state in zip(contexts, states, strict=True)]
        told = [lesson for lesson in lessons if lesson is not None]
        if len({lesson.key for lesson in told}) != 1 or len(told) < len(clients):
            continue
        answers = train_stack(contexts[0].models.stack(told[0].descent), told, device=case.toy.device)
        for ctx, state, lesson, learned in zip(contexts, states, told, answers, strict=True):
            found, figures = trainer.learned(ctx, state, lesson, learned)
            expected, expected_figures = trainer.fit(ctx, state, knowledge)
            require_close(found, expected, f"client {ctx.client_id}, round {round_id}: the state")
            require_close(figures, expected_figures, f"client {ctx.client_id}, round {round_id}: the figures")


CHECKS: tuple[Check, ...] = (
    is_declared_well,
    its_config_survives_the_way_through_files,
    it_refuses_tasks_that_it_does_not_declare,
    it_learns,
    its_score_is_what_the_metric_names,
    round_zero_has_no_knowledge,
    batch_norm_trains_though_a_pass_would_end_in_a_batch_of_one,
    one_row_of_knowledge_is_heard,
    knowledge_pulls_towards_it,
    nothing_accepted_is_a_legal_share,
    what_is_accepted_is_said_and_nothing_else,
    same_seed_same_result_whatever_torch_drew_before,
    another_seed_or_client_another_result,
    resume_equals_the_straight_run,
    its_state_is_plain_and_survives_storage,
    what_goes_in_is_not_touched,
    predicting_twice_says_the_same,
    a_lesson_teaches_what_fit_teaches,
    the_closing_message_trains_on_nothing_private,
    knowledge_in_half_precision_stays_finite,
    cpu_and_gpu_agree,
)


def _path(cls: type[LocalTrainer]) -> str:
    """The name by which an experiment finds the class."""
    return f"{cls.__module__}:{cls.__qualname__}"


def _require_floats(figures: Mapping[str, float]) -> None:
    wrong = {name: value for name, value in figures.items() if type(value) is not float or not math.isfinite(value)}
    require(not wrong, f"figures are no finite floats: {wrong}")

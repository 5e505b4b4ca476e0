import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fedkd.compose import compose
from fedkd.data.config import DataConfig
from fedkd.data.load import load_dataset
from fedkd.errors import ConfigError
from fedkd.exchange.extras import Acceptance
from fedkd.exchange.mean import MeanConfig, MeanScheme
from fedkd.federation.preflight import preflight
from fedkd.functional.adaspec import forward_kl_rows
from fedkd.methods.adaspec.trainer import AdaSpec
from fedkd.models.config import ModelConfig
from fedkd.rows import Knowledge, Rows, Share
from fedkd.tasks.language import Language
from fedkd.testing import TOYS
from fedkd.testing.cases import NOTHING, Case
from fedkd.testing.toys import Toy, digest_of
from tests.contract.toys import server_context

pytestmark = pytest.mark.usefixtures("one_torch_thread")

LANGUAGE = TOYS["language"]


def case(toy: Toy = LANGUAGE, **options: Any) -> Case:
    return Case.of(AdaSpec, toy, {f"method.{name}": value for name, value in options.items()})


def rows_of(share: Share) -> Rows:
    (rows,) = share.rows
    return rows


def wire_numbers(share: Share) -> int:
    return sum(rows.values.size + len(rows.ids) + len(rows.columns) * len(rows.ids) for rows in share.rows)


@pytest.fixture(scope="module")
def fitted() -> Any:
    return case().fitted()


def test_kept_tokens_are_those_on_which_the_draft_lags_most(fitted: Any) -> None:
    here = case()
    share = here.legal(here.speak(fitted))
    (every,) = here.trainer().predict(here.toy.context(), fitted, here.toy.public.inputs(), here.toy.accepted)
    n = len(every)
    kept = np.isin(every.ids, rows_of(share).ids)
    assert kept.sum() >= n - math.ceil(0.6 * (n - 1))
    delta = every.columns["delta"]
    assert delta[kept].min() > delta[~kept].max()
    np.testing.assert_array_equal(rows_of(share).columns["delta"], delta[kept])
    np.testing.assert_array_equal(rows_of(share).values, every.values[kept])
    np.testing.assert_allclose(np.exp(rows_of(share).values).sum(axis=1), 1, rtol=1e-5)


def test_delta_is_how_much_farther_the_draft_is_from_the_target_than_the_reference(fitted: Any) -> None:
    here = case()
    ctx, ids = here.toy.context(), here.toy.rows_of([3])
    (every,) = here.trainer().predict(ctx, fitted, here.toy.public.inputs(), ids)
    parts = {"student": fitted["student"], "target": fitted["target"]["weights"], "reference": fitted["reference"]}
    p, q, r = (
        torch.from_numpy(
            ctx.task.predict(ctx.models.load(role, parts[role]), here.toy.public, ids, batch_size=4).values
        )
        for role in ("target", "student", "reference")
    )
    np.testing.assert_allclose(
        every.columns["delta"], forward_kl_rows(q, p) - forward_kl_rows(r, p), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(every.values, p.log_softmax(-1), rtol=1e-4, atol=1e-5)
    (own,) = case(speaks="draft").trainer().predict(ctx, fitted, here.toy.public.inputs(), ids)
    np.testing.assert_allclose(own.values, q.log_softmax(-1), rtol=1e-4, atol=1e-5)


def test_a_share_is_cut_to_the_kept_part(fitted: Any) -> None:
    whole = wire_numbers(case(select="all").speak(fitted))
    for select, slack in (("random", 0.01), ("top", 0.1), ("bottom", 0.1)):  # equal words lag equally: ties stay
        assert wire_numbers(case(select=select).speak(fitted)) / whole == pytest.approx(0.4, abs=slack)
    assert wire_numbers(case(keep_share=1.0).speak(fitted)) == whole


def test_the_filter_comes_first_and_the_share_is_of_what_it_accepts(fitted: Any) -> None:
    here = case()
    few = rows_of(here.speak(fitted, samples=[1, 5]))
    asked = here.toy.rows_of([1, 5])
    assert set(few.ids) <= set(asked)
    assert len(few) == pytest.approx(0.4 * len(asked), abs=1.5)
    assert len(rows_of(here.speak(fitted, samples=[]))) == 0
    (one,) = here.trainer().predict(here.toy.context(), fitted, here.toy.public.inputs(), here.toy.rows_of([1])[:1])
    assert len(rows_of(here.trainer().share(here.toy.context(), fitted, (one,)))) == 1


def test_a_quantile_in_each_sequence_shares_some_of_each(fitted: Any) -> None:
    rows = rows_of(case(selection_scope="sequence").speak(fitted))
    assert set(rows.ids // LANGUAGE.made_task().rows_per_sample) == set(range(0, 16, 2))


def test_top_symbols_and_a_tail_cross_the_wire_and_teach(fitted: Any) -> None:
    here = case(top=2)
    share = here.legal(here.speak(fitted))
    rows = rows_of(share)
    assert rows.support is not None
    assert rows.values.shape[1] == 3
    assert (np.diff(rows.support, axis=1) > 0).all()
    np.testing.assert_allclose(np.exp(rows.values).sum(axis=1), 1, rtol=1e-5)
    taught, metrics = here.trainer().fit(here.toy.context(1), fitted, Knowledge(common=(rows,)))
    assert metrics["distil_loss"] >= 0
    assert digest_of(taught) != digest_of(here.trainer().fit(here.toy.context(1), fitted, NOTHING)[0])


def test_the_aggregate_acts_as_the_target_on_proxy_tokens(fitted: Any) -> None:
    """A draft that hears nothing but a foreign truth comes closer to it; so does a target that may learn."""
    here = case(target_learns=False)
    ids = here.toy.rows_of(range(16))
    values = np.full((len(ids), here.toy.classes), math.log(0.1 / (here.toy.classes - 1)), np.float32)
    values[:, 2] = math.log(0.9)
    foreign = Knowledge(common=(Rows(space="proxy", kind="log_probs", ids=ids, values=values),))

    def far(state: Any, name: str = "student") -> float:
        ctx = here.toy.context(4, closing=True)
        weights = state[name] if name == "student" else state["target"]["weights"]
        logits = ctx.task.predict(ctx.models.load(name, weights), here.toy.public.inputs(), ids, batch_size=8).values
        return -float(torch.from_numpy(logits).log_softmax(-1)[:, 2].mean())

    closing = here.toy.context(4, closing=True)
    after, metrics = here.trainer().fit(closing, fitted, foreign)
    assert far(after) < far(fitted)
    assert "private_loss" not in metrics
    assert digest_of(after["target"]) == digest_of(fitted["target"])
    assert digest_of(after["reference"]) == digest_of(fitted["reference"])
    learnt, more = case().trainer().fit(closing, fitted, foreign)
    assert more["target_kl"] > 0
    assert far(learnt, "target") < far(fitted, "target")


def test_the_reference_starts_as_the_draft_did_and_stays_unless_it_is_refreshed() -> None:
    here = case(refresh_reference_every=2)
    trainer, ctx = here.trainer(), here.toy.context
    start = trainer.init(ctx())
    assert digest_of(start["start"]) == digest_of(start["student"])
    states, state = [], start
    for round_id in range(3):
        state, metrics = trainer.fit(ctx(round_id), state, here.knowledge([0, 1]) if round_id else NOTHING)
        states.append(state)
        assert ("reference_kl" in metrics) == (round_id % 2 == 0)
    digests = [digest_of(each["reference"]) for each in states]
    assert digests[0] == digests[1] != digests[2]
    closed, _ = trainer.fit(ctx(4, closing=True), state, here.knowledge([0, 1]))
    assert digest_of(closed["reference"]) == digests[2]
    kept = case().fitted()
    assert kept["start"] == {}


def test_steps_and_batches_are_those_of_the_schedule() -> None:
    seen: list[int] = []

    class Counting(Language):  # type: ignore[misc] # final, but here it only counts
        def batch(self, samples: Any, index: Any, device: str) -> Any:
            seen.append(len(index))
            return super().batch(samples, index, device)

    for options, sizes in (({}, [20, 4, 20]), ({"budget_match": "samples"}, [8] * 3), ({"select": "all"}, [8] * 3)):
        here = case(target_steps=1, reference_rounds=1, **options)
        here = here.among(schedule=replace(here.toy.schedule, private_steps=3, private_batch=8))
        ctx = here.toy.context()
        ctx = replace(ctx, task=Counting(**vars(ctx.task)))
        state = here.trainer().init(ctx)
        seen.clear()
        here.trainer().fit(ctx, state, NOTHING)
        assert seen == [8, 8, 8, *sizes]  # reference, then draft: 24 sequences


def test_acceptance_counters_add_up_over_clients(fitted: Any) -> None:
    here = case(count_prompts=0)
    assert here.speak(fitted).extra is None
    shares = [replace(case(count_prompts=5).among(seed=seed).speak(fitted), client_id=seed) for seed in range(3)]
    records = [Acceptance.from_json(share.extra.data) for share in shares if share.extra]
    assert len(records) == 3
    _, knowledge = MeanScheme(MeanConfig()).step(server_context(), {}, shares)
    (told,) = knowledge.extras
    assert Acceptance.from_json(told.data) == Acceptance.total(records)
    assert shares[0].metrics["own_alpha"] == records[0].accepted / (records[0].accepted + records[0].rejected)


def test_a_token_that_nobody_keeps_keeps_its_value(fitted: Any) -> None:
    scheme, here = MeanScheme(MeanConfig(memory=True)), case(count_prompts=0)
    first = here.speak(fitted, samples=[0])
    state, before = scheme.step(server_context(), scheme.init(server_context()), [first])
    _, after = scheme.step(server_context(round_id=1), state, [here.speak(fitted, samples=[1], round_id=1)])
    old = after.common[0].where(np.isin(after.common[0].ids, rows_of(first).ids))
    np.testing.assert_array_equal(old.values, before.common[0].values)
    assert len(after.common[0]) > len(old) == len(rows_of(first))


def test_a_draft_that_is_judged(fitted: Any) -> None:
    here = case()
    found = here.trainer().evaluate(here.toy.context(), fitted, here.toy.test)
    assert found.score == found.metrics["alpha"]
    assert set(found.metrics) >= {"loss", "expected_acceptance", "agreement", "target_kl", "tokens_per_block"}
    assert 0 <= found.score <= 1 <= found.metrics["tokens_per_block"] <= 3
    ctx = here.toy.context()
    own = ctx.models.load("student", fitted["student"])
    rows = ctx.task.predict(own, here.toy.test, here.toy.rows_of_test(), batch_size=7)
    plain = ctx.task.finish(ctx.task.tally(rows, here.toy.test))
    assert found.metrics["loss"] == pytest.approx(plain.score, rel=1e-5)
    nobody = here.trainer().evaluate(ctx, fitted, here.toy.test.take(np.arange(0)))
    assert nobody.score == 0.0


def given(folder: Path, width: int = 16) -> str:
    """Weights of the toy's bigram, in a file."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(LANGUAGE.classes, width), torch.nn.Linear(width, LANGUAGE.classes))
    save_file(model.state_dict(), folder / "target.safetensors")
    return str(folder / "target.safetensors")


def test_a_given_target_is_read_and_stays_as_it_is(tmp_path: Path) -> None:
    here = Case.of(AdaSpec, LANGUAGE, {"teacher.weights": given(tmp_path)})
    state = here.fitted(here.knowledge([0, 1]))
    assert state["target"] == {}
    rows = rows_of(here.legal(here.speak(state)))
    model = here.toy.context().models.frozen("teacher")
    said = here.toy.context().task.predict(model, here.toy.public, rows.ids, batch_size=4).values
    np.testing.assert_allclose(rows.values, torch.from_numpy(said).log_softmax(-1), rtol=1e-4, atol=1e-5)


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    here = Case.of(AdaSpec, LANGUAGE, {"teacher.weights": given(tmp_path, width=9)})
    with pytest.raises(ConfigError, match=r"teacher.weights is .*target.safetensors"):
        here.fitted()


def test_without_a_proxy_set_there_is_nothing_to_share_but_counters() -> None:
    here = case()
    ctx = replace(here.toy.context(), proxy=None)
    state, metrics = here.trainer().fit(ctx, here.trainer().init(ctx), NOTHING)
    share = here.trainer().share(ctx, state, ())
    assert metrics["draft_kl"] > 0
    assert share.rows == ()
    assert share.extra is not None


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"teacher.num_outputs": 50}, r"model 'tiny_lm' answers .* 50\), expected .*48\): .*vocabulary of 48 tokens"),
        ({"task.name": "classification"}, "does not train task 'classification'"),
        ({"scheme.name": "fd"}, "scheme 'fd' "),
        ({"proxy.name": "none"}, "proxy.name is 'none'"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_run(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        preflight(compose(experiment="methods/adaspec", overrides={"the test": keys}))


def test_a_top_as_large_as_the_vocabulary_is_refused() -> None:
    with pytest.raises(ConfigError, match=rf"method.top is {LANGUAGE.classes}, but the vocabulary has"):
        assert case(top=LANGUAGE.classes).streams


def test_a_block_longer_than_the_texts_is_refused(fitted: Any) -> None:
    here = case(gamma=200)
    with pytest.raises(ConfigError, match=r"method.gamma is 200, but the sequences have"):
        here.trainer().evaluate(here.toy.context(), fitted, here.toy.test)


def test_models_of_transformers_from_tiny_configurations() -> None:
    pytest.importorskip("transformers", reason="needs transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    toy = replace(
        LANGUAGE,
        model=ModelConfig(name="transformers/gpt2", options='{"n_embd": 8, "n_layer": 1, "n_head": 2}'),
    )
    options = {"teacher.name": "transformers/gpt_neox", "teacher.options": json.dumps(small)}
    here = Case.of(AdaSpec, toy, options | {"method.target_steps": 5, "method.top": 3})
    state, knowledge = here.go(here.trainer().init(here.toy.context()), NOTHING, range(2))
    assert len(knowledge.common[0])
    assert 0 <= here.trainer().evaluate(here.toy.context(), state, here.toy.test).score <= 1
    assert digest_of(here.trainer().fit(here.toy.context(2), state, knowledge)[0]) != digest_of(state)


def test_real_text_by_character(tmp_path: Path) -> None:
    speeches = [f"Lord {chr(65 + i % 12)}:\nWhat say you, {'my ' * (i % 5)}lord? Speak {i}." for i in range(60)]
    (tmp_path / "tinyshakespeare.txt").write_text("\n\n".join(speeches))
    data = load_dataset(DataConfig(name="shakespeare", root=str(tmp_path), length=32))
    toy = replace(
        LANGUAGE,
        train=data.train,
        test=data.test,
        public=data.train.take(np.arange(8)),
        options={"pad": 0},
        classes=data.num_classes,
        model=ModelConfig(name="tiny_lm", hidden=8, options='{"layers": 1}'),
    )
    here = Case.of(AdaSpec, toy, {"method.prompt_tokens": 8, "method.target_steps": 20, "method.top": 8})
    state, knowledge = here.go(here.trainer().init(here.toy.context()), NOTHING, range(2))
    found = here.trainer().evaluate(here.toy.context(), state, here.toy.test)
    assert found.metrics["loss"] < math.log(data.num_classes)
    assert rows_of(here.legal(here.speak(state))).values.shape[1] == 9
    assert len(knowledge.common[0])

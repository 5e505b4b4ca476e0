import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedkd.functional.adaspec import forward_kl_rows, label_mask, label_rows, select_tokens, top_buckets
from fedkd.functional.batching import batch_starts
from fedkd.methods.adaspec.causal import token_logits
from fedkd.methods.adaspec.config import AdaSpecConfig
from fedkd.methods.adaspec.corpus import Corpus, bucket_teacher, live_teacher, token_batches, token_sequences
from fedkd.methods.adaspec.decoding import greedy_decode
from fedkd.methods.adaspec.stages import (
    StagePlan,
    adamw,
    draft_plan,
    fine_tune,
    is_refresh_due,
    reference_plan,
    start_reference,
    target_plan,
    train_draft,
    train_reference,
)
from tests.methods.adaspec.tables import Running, Table

CPU = torch.device("cpu")
SYMBOLS = 7


def sequences(n: int = 12, t: int = 9, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Ids, and labels on what follows the first three; the last of odd sequences is padding."""
    ids = torch.randint(SYMBOLS, (n, t), generator=torch.Generator().manual_seed(seed))
    labels = ids.clone()
    labels[:, :3] = -100
    labels[1::2, -1] = -100
    return ids, labels


def corpus(target: nn.Module, n: int = 12, seed: int = 0) -> Corpus:
    ids, labels = sequences(n, seed=seed)
    return Corpus(ids=ids, labels=labels, teacher=live_teacher(target))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def one_draft_step(draft: nn.Module, reference: nn.Module, parts: list[Corpus], **settings: Any) -> dict[str, float]:
    size = sum(map(len, parts))
    return train_draft(
        draft,
        reference,
        sgd(draft),
        parts,
        config=AdaSpecConfig(**settings),
        plan=StagePlan(steps=1, batch_size=size, max_grad_norm=0.0),
        order_rng=rng(),
        select_rng=rng(),
    )


def test_epochs_become_steps_and_steps_win() -> None:
    config = AdaSpecConfig(batch_size=16, target_epochs=2, reference_epochs=0.5, reference_steps=0, draft_steps=7)
    assert target_plan(config, 100).steps == 2 * len(batch_starts(100, 16)) == 14
    assert reference_plan(config, 100).steps == 4  # rounded up
    assert draft_plan(config, 100).steps == 7
    assert target_plan(replace(config, target_epochs=0), 100).steps == 0
    assert target_plan(replace(config, target_epochs=0), 100).batch_size == 16


def test_a_matched_budget() -> None:
    # The authors' GSM8K script: 7.5 epochs in batches of 40 where three epochs in batches of 16 are the baseline.
    steps = AdaSpecConfig(batch_size=16, draft_epochs=3, keep_share=0.4)
    plain = reference_plan(steps, 7473)
    assert draft_plan(steps, 7473) == StagePlan(steps=plain.steps, batch_size=40)
    samples = replace(steps, budget_match="samples")
    assert draft_plan(samples, 7473) == plain
    assert draft_plan(replace(steps, select="all"), 7473) == plain
    assert draft_plan(replace(steps, keep_share=1.0), 7473) == plain


def test_when_the_reference_is_trained_anew() -> None:
    assert [is_refresh_due(AdaSpecConfig(), r) for r in range(4)] == [True, False, False, False]
    every_other = AdaSpecConfig(refresh_reference_every=2)
    assert [is_refresh_due(every_other, r) for r in range(4)] == [True, False, True, False]


def test_decay_spares_biases_and_scales() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    optimizer = adamw(model, lr=0.1, weight_decay=0.5)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert [decays[id(p)] for p in model.parameters()] == [0.5, 0.0, 0.0, 0.0]
    assert len(adamw(nn.LayerNorm(3), lr=0.1, weight_decay=0.5).param_groups) == 1


def test_a_reference_starts_as_the_draft_and_lives_on_its_own() -> None:
    draft = Running(SYMBOLS, 6, seed=0)
    reference = start_reference(draft)
    assert weights(reference).equal(weights(draft))
    before = weights(draft)
    train_reference(
        reference,
        sgd(reference),
        [corpus(Running(SYMBOLS, 6, seed=1))],
        plan=StagePlan(steps=2, batch_size=4),
        order_rng=rng(),
    )
    assert weights(draft).equal(before)
    assert not weights(reference).equal(before)


def test_fine_tuning_steps_along_the_cross_entropy_of_the_label_tokens() -> None:
    model, ids_labels = Running(SYMBOLS, 6, seed=0), sequences()
    by_hand = copy.deepcopy(model)
    ids, labels = ids_labels
    logits = by_hand(ids)[:, :-1].reshape(-1, SYMBOLS)
    loss = nn.functional.cross_entropy(logits, labels[:, 1:].reshape(-1), ignore_index=-100)
    loss.backward()
    sgd(by_hand).step()
    plan = StagePlan(steps=1, batch_size=12, max_grad_norm=0.0)
    metrics = fine_tune(model, sgd(model), ids, labels, plan=plan, order_rng=rng())
    assert metrics == {"target_loss": pytest.approx(loss.item(), rel=1e-6)}
    torch.testing.assert_close(weights(model), weights(by_hand))


def test_fine_tuning_learns_the_response_and_not_the_prompt() -> None:
    ids = torch.arange(9).remainder(SYMBOLS).expand(8, 9)
    model = Table(torch.zeros(SYMBOLS, SYMBOLS))
    labels = ids.clone()
    labels[:, :4] = -100
    optimizer = adamw(model, lr=0.1, weight_decay=0.0)
    fine_tune(model, optimizer, ids, labels, plan=StagePlan(steps=60, batch_size=8), order_rng=rng())
    # Labels are the symbols at places 4 to 8, that is 4 5 6 0 1: learnt after 3 4 5 6 0, unknown after 1 and 2.
    assert model.logits.argmax(-1)[[3, 4, 5, 6, 0]].tolist() == [4, 5, 6, 0, 1]
    assert not model.logits[[1, 2]].any()


def test_the_reference_steps_along_the_mean_divergence() -> None:
    target, model = Running(SYMBOLS, 6, seed=1), Running(SYMBOLS, 6, seed=0)
    by_hand, data = copy.deepcopy(model), corpus(Running(SYMBOLS, 6, seed=1))
    rows = (label_rows(each(data.ids), data.labels) for each in (by_hand, target))
    loss = forward_kl_rows(*rows).mean()
    loss.backward()
    sgd(by_hand).step()
    plan = StagePlan(steps=1, batch_size=12, max_grad_norm=0.0)
    metrics = train_reference(model, sgd(model), [data], plan=plan, order_rng=rng())
    assert metrics == {"reference_kl": pytest.approx(loss.item(), rel=1e-5)}
    torch.testing.assert_close(weights(model), weights(by_hand))


@pytest.mark.parametrize("norm", ["mean_kept", "all_tokens"])
def test_the_draft_steps_along_the_divergence_of_the_selected_tokens(norm: str) -> None:
    target, draft, reference = (Running(SYMBOLS, 6, seed=seed) for seed in (1, 0, 2))
    by_hand, data = copy.deepcopy(draft), corpus(target)
    divergences = [
        forward_kl_rows(label_rows(each(data.ids), data.labels), label_rows(target(data.ids), data.labels))
        for each in (by_hand, reference)
    ]
    delta = (divergences[0] - divergences[1]).detach()
    keep = select_tokens(delta, keep_share=0.4)
    loss = divergences[0][keep].sum() / (keep.sum() if norm == "mean_kept" else len(keep))
    loss.backward()
    sgd(by_hand).step()
    before = weights(target), weights(reference)
    metrics = one_draft_step(draft, reference, [data], loss_norm=norm)
    torch.testing.assert_close(weights(draft), weights(by_hand))
    assert metrics == {
        "draft_kl": pytest.approx(divergences[0].mean().item(), rel=1e-5),
        "kept_share": pytest.approx(keep.float().mean().item()),
        "delta_kept": pytest.approx(delta[keep].mean().item(), rel=1e-5),
        "delta_dropped": pytest.approx(delta[~keep].mean().item(), rel=1e-4),
    }
    assert all(one.equal(other) for one, other in zip(before, (weights(target), weights(reference)), strict=True))
    assert all(parameter.grad is None for model in (target, reference) for parameter in model.parameters())


def test_keeping_everything_is_the_reference_stage() -> None:
    target, start = Running(SYMBOLS, 6, seed=1), Running(SYMBOLS, 6, seed=0)
    plan = StagePlan(steps=9, batch_size=5)
    plain = start_reference(start)
    train_reference(plain, sgd(plain), [corpus(target)], plan=plan, order_rng=rng())
    for settings in ({"select": "all"}, {"keep_share": 1.0}):
        draft = start_reference(start)
        config = AdaSpecConfig(**settings)
        metrics = train_draft(draft, plain, sgd(draft), [corpus(target)], config=config, plan=plan, order_rng=rng())
        torch.testing.assert_close(weights(draft), weights(plain), rtol=0, atol=1e-6)
        assert metrics["kept_share"] == 1.0
        assert "delta_dropped" not in metrics


@pytest.mark.parametrize("select", ["bottom", "random"])
def test_controls_learn_other_tokens_but_as_many(select: str) -> None:
    target, reference = Running(SYMBOLS, 6, seed=1), Running(SYMBOLS, 6, seed=2)
    drafts = [Running(SYMBOLS, 6, seed=0) for _ in "ab"]
    top = one_draft_step(drafts[0], reference, [corpus(target)])
    other = one_draft_step(drafts[1], reference, [corpus(target)], select=select)
    assert other["kept_share"] == pytest.approx(top["kept_share"], abs=0.02)
    assert other["delta_kept"] < top["delta_kept"]
    assert not weights(drafts[0]).equal(weights(drafts[1]))


def test_a_quantile_in_each_sequence_keeps_some_of_every_sequence() -> None:
    target, draft, reference = (Running(SYMBOLS, 6, seed=seed) for seed in (1, 0, 2))
    data = corpus(target)
    (batch,) = token_batches([data], torch.arange(12), device=CPU)
    numbers = token_sequences([batch])
    assert torch.bincount(numbers).equal(label_mask(data.labels).sum(1))
    delta = (batch.divergence(draft) - batch.divergence(reference)).detach()
    within = select_tokens(delta, keep_share=0.4, sequence=numbers)
    assert set(numbers[within].tolist()) == set(range(12))
    metrics = one_draft_step(draft, reference, [data], selection_scope="sequence")
    assert metrics["delta_kept"] == pytest.approx(delta[within].mean().item(), rel=1e-5)


def test_two_corpora_are_one_and_share_a_quantile() -> None:
    target, reference = Running(SYMBOLS, 6, seed=1), Running(SYMBOLS, 6, seed=2)
    whole = corpus(target)
    halves = [
        Corpus(ids=whole.ids[at], labels=whole.labels[at], teacher=whole.teacher) for at in (slice(5), slice(5, 12))
    ]
    drafts = [Running(SYMBOLS, 6, seed=0) for _ in "ab"]
    results = [one_draft_step(draft, reference, parts) for draft, parts in zip(drafts, ([whole], halves), strict=True)]
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    torch.testing.assert_close(weights(drafts[0]), weights(drafts[1]))
    (only,) = token_batches(halves, torch.tensor([7, 11]), device=CPU)
    assert only.ids.equal(whole.ids[[7, 11]])


@pytest.mark.parametrize("num_top", [SYMBOLS - 1, SYMBOLS])
def test_a_stored_target_teaches_like_the_live_one(num_top: int) -> None:
    target, reference = Running(SYMBOLS, 6, seed=1), Running(SYMBOLS, 6, seed=2)
    live = corpus(target)
    with torch.no_grad():
        logits = token_logits(target, live.ids)[:, :-1]
    indices, log_probs = top_buckets(logits.flatten(0, 1), num_top=num_top)
    shape = logits.shape[:2]
    stored = replace(live, teacher=bucket_teacher(indices.unflatten(0, shape), log_probs.unflatten(0, shape)))
    drafts = [Running(SYMBOLS, 6, seed=0) for _ in "ab"]
    results = [one_draft_step(draft, reference, [data]) for draft, data in zip(drafts, (live, stored), strict=True)]
    assert results[0] == pytest.approx(results[1], rel=1e-4)
    torch.testing.assert_close(weights(drafts[0]), weights(drafts[1]), rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped_to_the_norm() -> None:
    target, model = Running(SYMBOLS, 6, seed=1), Running(SYMBOLS, 6, seed=0)
    before = weights(model)
    plan = StagePlan(steps=1, batch_size=12, max_grad_norm=0.01)
    train_reference(model, sgd(model, lr=1.0), [corpus(target)], plan=plan, order_rng=rng())
    assert (weights(model) - before).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_sequences_without_labels_teach_nothing() -> None:
    target, draft, reference = (Running(SYMBOLS, 6, seed=seed) for seed in (1, 0, 2))
    data = corpus(target)
    silent = replace(data, labels=torch.full_like(data.labels, -100))
    before = weights(draft)
    assert one_draft_step(draft, reference, [silent]) == {}
    assert weights(draft).equal(before)


def test_no_steps_and_no_sequences_change_nothing() -> None:
    target, model = Running(SYMBOLS, 6, seed=1), Running(SYMBOLS, 6, seed=0)
    before = weights(model)
    for n, steps in ((12, 0), (0, 5)):
        plan = StagePlan(steps=steps, batch_size=4)
        assert train_reference(model, sgd(model), [corpus(target, n)], plan=plan, order_rng=rng()) == {}
    assert weights(model).equal(before)


def test_padding_on_the_right_changes_nothing() -> None:
    target, reference = Running(SYMBOLS, 6, seed=1), Running(SYMBOLS, 6, seed=2)
    data = corpus(target)
    padded = Corpus(
        ids=nn.functional.pad(data.ids, (0, 4)),
        labels=nn.functional.pad(data.labels, (0, 4), value=-100),
        teacher=data.teacher,
    )
    drafts = [Running(SYMBOLS, 6, seed=0) for _ in "ab"]
    results = [one_draft_step(draft, reference, [part]) for draft, part in zip(drafts, (data, padded), strict=True)]
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    torch.testing.assert_close(weights(drafts[0]), weights(drafts[1]))


@pytest.mark.parametrize("select", ["top", "random"])
def test_an_optimiser_that_comes_back_resumes_and_equal_generators_give_equal_drafts(select: str) -> None:
    target, reference = Running(SYMBOLS, 6, seed=1), Running(SYMBOLS, 6, seed=2)
    config = AdaSpecConfig(select=select)
    ends = []
    for _ in "ab":
        draft = Running(SYMBOLS, 6, seed=0)
        optimizer = adamw(draft, lr=0.01, weight_decay=0.1)
        for round_id in range(2):
            train_draft(
                draft,
                reference,
                optimizer,
                [corpus(target)],
                config=config,
                plan=StagePlan(steps=3, batch_size=4),
                order_rng=rng(round_id),
                select_rng=rng(round_id),
            )
        ends.append(weights(draft))
    assert ends[0].equal(ends[1])


def test_all_three_stages_raise_acceptance() -> None:
    ids = (torch.arange(10) + torch.arange(SYMBOLS)[:, None]).remainder(SYMBOLS)
    labels = ids.clone()
    labels[:, :2] = -100
    target, draft = Running(SYMBOLS, 12, seed=1), Running(SYMBOLS, 4, seed=2)
    plan = StagePlan(steps=80, batch_size=7)
    fine_tune(target, adamw(target, lr=0.02, weight_decay=0.0), ids, labels, plan=plan, order_rng=rng())
    data = [Corpus(ids=ids, labels=labels, teacher=live_teacher(target))]
    reference = start_reference(draft)
    prompts = list(ids[:, :2])
    before = greedy_decode(draft, target, prompts, max_new_tokens=8).total.rate
    train_reference(reference, adamw(reference, lr=0.02, weight_decay=0.0), data, plan=plan, order_rng=rng())
    train_draft(
        draft,
        reference,
        adamw(draft, lr=0.02, weight_decay=0.0),
        data,
        config=AdaSpecConfig(),
        plan=plan,
        order_rng=rng(),
    )
    after = greedy_decode(draft, target, prompts, max_new_tokens=8)
    assert after.tokens[0].tolist() == [(2 + step) % SYMBOLS for step in range(8)]
    assert after.total.rate > before + 0.3

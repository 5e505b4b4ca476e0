import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedkd.errors import ConfigError
from fedkd.functional.adaspec import forward_kl_rows, label_mask, select_tokens
from fedkd.functional.supports import top_support
from fedkd.methods.adaspec.config import AdaSpecConfig
from fedkd.methods.adaspec.lessons import Lessons, lessons_heard, lessons_of
from fedkd.methods.adaspec.stages import (
    Tallies,
    decay_groups,
    draft_loss,
    draft_schedule,
    is_refresh_due,
    reference_loss,
    reference_schedule,
    target_schedule,
)
from fedkd.methods.schedule import ScheduleConfig
from fedkd.methods.taught import Taught
from fedkd.rows import Rows
from tests.methods.adaspec.tables import SYMBOLS, TASK, Running, texts

ALL = np.arange(12)
PLAN = ScheduleConfig(private_epochs=3, private_batch=16, distil_epochs=2, distil_batch=8)


def models() -> tuple[nn.Module, nn.Module, nn.Module]:
    """Target, draft and reference."""
    target, draft, reference = (Running(SYMBOLS, 6, seed=seed) for seed in (1, 0, 2))
    return target, draft, reference.eval().requires_grad_(False)


def lessons(target: nn.Module) -> Lessons:
    return lessons_of(TASK, texts(), target, device="cpu")


def heard(target: nn.Module, top: int = 0) -> Lessons:
    """What the target says about all label tokens, as it crosses the wire."""
    valid = TASK.valid(texts())
    assert valid is not None
    ids = np.flatnonzero(valid)
    with torch.no_grad():
        logits = target(torch.from_numpy(texts().x).long()).flatten(0, 1)[ids]
    values, support = logits.log_softmax(-1).numpy(), None
    if top:
        values, support = top_support(values, top)
    rows = Rows(space="proxy", kind="log_probs", ids=ids, values=values, support=support)
    return lessons_heard(TASK, texts(), Taught(rows, TASK.rows_per_sample), device="cpu")


def by_hand(target: nn.Module, draft: nn.Module, reference: nn.Module) -> tuple[Tensor, Tensor]:
    """Divergences of the draft, with gradients, and how far they lie above the reference's."""
    batch = TASK.batch(texts(), ALL, "cpu")
    p, q, r = (model(batch.tokens)[label_mask(batch.labels)].float() for model in (target, draft, reference))
    losses = forward_kl_rows(q, p)
    return losses, (losses - forward_kl_rows(r, p)).detach()


def step(model: nn.Module, loss: Tensor) -> Tensor:
    """The weights after one plain step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss.backward()
    optimizer.step()
    return weights(model)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_stage_lengths() -> None:
    config = AdaSpecConfig(target_epochs=2, target_steps=5, reference_rounds=3)
    assert target_schedule(PLAN, config).num_private_steps(100) == 5
    assert target_schedule(PLAN, replace(config, target_steps=0)).num_private_steps(100) == 2 * 7
    assert target_schedule(PLAN, replace(config, target_steps=0, target_epochs=0)).num_private_steps(100) == 0
    plan = reference_schedule(PLAN, config, rounds=10, num_private=100, num_heard=20)
    assert (plan.private_steps, plan.distil_steps, plan.private_batch) == (3 * 21, 3 * 6, 16)
    whole = reference_schedule(PLAN, AdaSpecConfig(), rounds=10, num_private=100, num_heard=0)
    assert (whole.private_steps, whole.distil_steps) == (10 * 21, 0)


def test_a_matched_budget() -> None:
    # The authors' GSM8K script: 7.5 epochs in batches of 40 where three epochs in batches of 16 are the baseline.
    sizes = {"num_private": 7473, "num_heard": 100}
    larger = draft_schedule(PLAN, AdaSpecConfig(), **sizes)
    assert (larger.private_batch, larger.distil_batch) == (40, 20)
    assert larger.num_private_steps(7473) == PLAN.num_private_steps(7473)
    assert larger.num_distil_steps(100) == PLAN.num_distil_steps(100)
    for config in (AdaSpecConfig(budget_match="samples"), AdaSpecConfig(select="all")):
        assert draft_schedule(PLAN, config, **sizes) == PLAN
    assert draft_schedule(PLAN, AdaSpecConfig(keep_share=1.0), **sizes).private_batch == 16


def test_when_the_reference_is_trained_anew() -> None:
    assert not any(is_refresh_due(AdaSpecConfig(), age) for age in range(4))
    every_other = AdaSpecConfig(refresh_reference_every=2)
    assert [is_refresh_due(every_other, age) for age in range(4)] == [False, False, True, True]


def test_decay_spares_biases_and_scales() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    decays = {id(p): group.weight_decay for group in decay_groups(model, lr_scale=0.5) for p in group.parameters}
    assert [decays[id(p)] for p in model.parameters()] == [None, 0.0, 0.0, 0.0]
    assert {group.lr_scale for group in decay_groups(model, lr_scale=0.5)} == {0.5}
    assert len(decay_groups(nn.LayerNorm(3))) == 1


def test_the_reference_steps_along_the_mean_divergence() -> None:
    target, draft, reference = models()
    twin, tallies = copy.deepcopy(draft), Tallies()
    losses, _ = by_hand(target, draft, reference)
    after = step(draft, losses.mean())
    torch.testing.assert_close(step(twin, reference_loss(lessons(target), twin, tallies=tallies)(ALL)), after)
    assert tallies.means() == {"reference_kl": pytest.approx(losses.mean().item(), rel=1e-5)}


@pytest.mark.parametrize("norm", ["mean_kept", "all_tokens"])
@pytest.mark.parametrize("top", [None, 0, SYMBOLS - 1])  # live, whole rows, one symbol a bucket
def test_the_draft_steps_along_the_divergence_of_the_selected_tokens(norm: str, top: int | None) -> None:
    target, draft, reference = models()
    twin, tallies = copy.deepcopy(draft), Tallies()
    losses, delta = by_hand(target, draft, reference)
    keep = select_tokens(delta, keep_share=0.4)
    after = step(draft, losses[keep].sum() / (keep.sum() if norm == "mean_kept" else len(keep)))
    before = weights(target), weights(reference)
    made = lessons(target) if top is None else heard(target, top)
    loss = draft_loss(made, twin, reference, config=AdaSpecConfig(loss_norm=norm), tallies=tallies)
    torch.testing.assert_close(step(twin, loss(ALL)), after, rtol=1e-4, atol=1e-6)
    assert tallies.means() == {
        "draft_kl": pytest.approx(losses.mean().item(), rel=1e-4),
        "kept_share": pytest.approx(keep.float().mean().item()),
        "delta_kept": pytest.approx(delta[keep].mean().item(), rel=1e-4),
        "delta_dropped": pytest.approx(delta[~keep].mean().item(), rel=1e-4),
    }
    assert all(one.equal(other) for one, other in zip(before, (weights(target), weights(reference)), strict=True))
    assert all(parameter.grad is None for model in (target, reference) for parameter in model.parameters())


def test_buckets_select_and_teach_without_the_whole_row() -> None:
    target, draft, reference = models()
    config, tallies = AdaSpecConfig(), Tallies()
    loss = draft_loss(heard(target, 2), draft, reference, config=config, tallies=tallies)(ALL)
    whole = draft_loss(heard(target), draft, reference, config=config, tallies=Tallies())(ALL)
    assert 0 < loss.item() < whole.item()
    assert tallies.means()["kept_share"] == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("settings", [{"select": "all"}, {"keep_share": 1.0}])
def test_keeping_everything_is_the_reference_stage(settings: dict[str, Any]) -> None:
    target, draft, reference = models()
    twin, tallies = copy.deepcopy(draft), Tallies()
    config = AdaSpecConfig(**settings)
    kept = draft_loss(lessons(target), draft, reference, config=config, tallies=tallies)(ALL)
    plain = reference_loss(lessons(target), twin, tallies=Tallies())(ALL)
    assert kept.item() == pytest.approx(plain.item(), abs=1e-6)
    torch.testing.assert_close(step(draft, kept), step(twin, plain), rtol=0, atol=1e-6)
    assert tallies.means()["kept_share"] == 1.0
    assert "delta_dropped" not in tallies.means()


@pytest.mark.parametrize("select", ["bottom", "random"])
def test_controls_learn_other_tokens_but_as_many(select: str) -> None:
    target, draft, reference = models()
    found = {}
    for name in ("top", select):
        tallies, rng = Tallies(), np.random.default_rng(0)
        config = AdaSpecConfig(select=name)
        draft_loss(lessons(target), draft, reference, config=config, tallies=tallies, rng=rng)(ALL)
        found[name] = tallies.means()
    assert found[select]["kept_share"] == pytest.approx(found["top"]["kept_share"], abs=0.02)
    assert found[select]["delta_kept"] < found["top"]["delta_kept"]


def test_a_quantile_in_each_sequence_keeps_some_of_every_sequence() -> None:
    target, draft, reference = models()
    batch, tallies = TASK.batch(texts(), ALL, "cpu"), Tallies()
    _, delta = by_hand(target, draft, reference)
    numbers = label_mask(batch.labels).nonzero()[:, 0]
    within = select_tokens(delta, keep_share=0.4, sequence=numbers)
    assert set(numbers[within].tolist()) == set(range(12))
    config = AdaSpecConfig(selection_scope="sequence")
    draft_loss(lessons(target), draft, reference, config=config, tallies=tallies)(ALL)
    assert tallies.means()["delta_kept"] == pytest.approx(delta[within].mean().item(), rel=1e-5)


def test_sequences_without_labels_teach_nothing() -> None:
    target, draft, reference = models()
    silent = replace(texts(), more={"response": np.zeros((12, 9), np.bool_)})
    made, tallies = lessons_of(TASK, silent, target, device="cpu"), Tallies()
    loss = draft_loss(made, draft, reference, config=AdaSpecConfig(), tallies=tallies)(ALL)
    before = weights(draft)
    assert loss.item() == 0.0
    assert step(draft, loss).equal(before)
    assert tallies.means() == {}


def test_padding_on_the_right_changes_nothing() -> None:
    target, draft, reference = models()
    short = texts()
    padded = replace(
        short,
        x=np.pad(short.x, ((0, 0), (0, 4)), constant_values=SYMBOLS - 1),
        more={"response": np.pad(short.more["response"], ((0, 0), (0, 4)))},
    )
    losses = [
        draft_loss(
            lessons_of(replace(TASK, length=samples.x.shape[1]), samples, target, device="cpu"),
            draft,
            reference,
            config=AdaSpecConfig(),
            tallies=Tallies(),
        )(ALL).item()
        for samples in (short, padded)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_other_vocabularies_are_refused_by_name() -> None:
    target, draft, _ = models()
    other = Running(SYMBOLS + 1, 6, seed=0)
    for pair in ((target, other), (other, draft)):
        wrong = 8 if pair[1] is other else 7
        with pytest.raises(ConfigError, match=f"draft has a vocabulary of {wrong} tokens and the target one of"):
            lessons(pair[0])(ALL).divergence(pair[1])

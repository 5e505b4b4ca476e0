import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedkd.functional.losses import kl_rows
from fedkd.functional.wad import margin_weights, student_loss, weighted_divergence
from fedkd.methods.local_training import step
from fedkd.methods.wad.stages import (
    Guidance,
    Labelled,
    Peers,
    knowledge_of,
    peer_loss,
    predict,
    promote,
    student_losses,
)
from fedkd.methods.wad.views import WeakView

pytestmark = pytest.mark.usefixtures("one_torch_thread")

IMAGES = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
L = Labelled(torch.tensor([3, 0, 7]), torch.tensor([1, 0, 1]))
SCORES = torch.tensor([[0.9, 0.1], [0.2, 0.5], [0.3, 0.3]])
G = Guidance(torch.tensor([8, 2, 5]), torch.tensor([0, 1, 0]), torch.tensor([0.8, 0.3, 0.0]), SCORES)


def linear(seed: int = 0) -> nn.Linear:
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(2, 4, generator=torch.Generator().manual_seed(seed)))
        layer.bias.zero_()
    return layer


def trained(
    student: nn.Module,
    *,
    labelled: Labelled = L,
    guidance: Guidance = G,
    steps: int = 1,
    batch: int = 3,
    seed: int = 0,
    view: WeakView | None = None,
    peers: Peers | None = None,
    images: torch.Tensor = IMAGES,
    unlabelled_weight: float = 1.0,
) -> tuple[nn.Module, float]:
    student = copy.deepcopy(student)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
    losses = student_losses(
        student,
        images,
        labelled,
        guidance,
        labelled_batch=batch,
        unlabelled_batch=batch,
        rng=np.random.default_rng(seed),
        view=view,
        peers=peers,
        unlabelled_weight=unlabelled_weight,
        kd_weight=2.0,
    )
    loss = 0.0
    for _ in range(steps):
        each = next(losses)
        step(optimizer, each)
        loss = each.item()
    return student, loss


def weights_of(module: nn.Module) -> list[float]:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).tolist()


# Knowledge


def test_knowledge_by_hand() -> None:
    projections = torch.tensor([[2.0, 0.0], [0.0, -1.0]])
    labelled = torch.tensor([[5.0, 0.0], [0.0, 0.1], [3.0, 4.0]])
    guidance = knowledge_of(projections, torch.tensor([9, 4]), labelled, torch.tensor([0, 1, 1]), num_classes=2)
    torch.testing.assert_close(guidance.scores, torch.tensor([[1.0, 0.6], [0.0, -0.8]]))
    assert guidance.ids.tolist() == [9, 4]
    assert guidance.labels.tolist() == [0, 0]
    torch.testing.assert_close(guidance.weights, torch.tensor([0.4, 0.8]))


def test_knowledge_is_the_same_in_parts_as_at_once() -> None:
    draws = torch.Generator().manual_seed(1)
    projections, labelled = torch.randn(2050, 3, generator=draws), torch.randn(6, 3, generator=draws)
    labels, ids = torch.tensor([0, 1, 2, 0, 1, 2]), torch.arange(2050)
    whole = knowledge_of(projections, ids, labelled, labels, num_classes=3)
    tail = knowledge_of(projections[2040:], ids[2040:], labelled, labels, num_classes=3)
    torch.testing.assert_close(whole.at(ids[2040:]).scores, tail.scores)
    assert whole.at(ids[2040:]).labels.tolist() == tail.labels.tolist()


def test_promoted_items_speak_for_their_class_in_the_next_iteration() -> None:
    projections, labelled = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    before = knowledge_of(projections, torch.tensor([0]), labelled, torch.tensor([0, 1]), num_classes=2)
    grown = torch.cat([labelled, torch.tensor([[1.0, 0.1]])])
    after = knowledge_of(projections, torch.tensor([0]), grown, torch.tensor([0, 1, 1]), num_classes=2)
    assert before.labels.item() == 0
    assert after.labels.item() == 1


def test_an_empty_pool_is_no_trouble_and_an_empty_labelled_set_is_refused() -> None:
    nothing, none = torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)
    assert len(knowledge_of(nothing, none, torch.eye(2), torch.tensor([0, 1]), num_classes=2).ids) == 0
    with pytest.raises(ValueError, match="labelled item"):
        knowledge_of(torch.eye(2), torch.tensor([0, 1]), nothing, none, num_classes=2)


def test_guidance_is_aligned_by_id() -> None:
    some = G.at(torch.tensor([5, 8]))
    assert some.ids.tolist() == [5, 8]
    assert some.labels.tolist() == [0, 0]
    assert some.weights.tolist() == pytest.approx([0.0, 0.8])
    assert torch.equal(some.scores, SCORES[[2, 0]])
    with pytest.raises(ValueError, match="the first is 6"):
        G.at(torch.tensor([5, 6]))


# Student


def test_one_step_is_one_step_on_the_loss_of_the_paper() -> None:
    student = linear()
    expected = copy.deepcopy(student)
    loss = student_loss(expected(IMAGES[L.ids]), L.labels, expected(IMAGES[G.ids]), G.labels, G.weights)
    torch.autograd.backward(loss)
    torch.optim.SGD(expected.parameters(), lr=0.5).step()
    after, found = trained(student)
    assert weights_of(after) == pytest.approx(weights_of(expected), abs=1e-6)
    assert found == pytest.approx(loss.item(), rel=1e-6)


def test_the_order_of_the_lists_does_not_change_a_full_batch() -> None:
    turned = Labelled(L.ids.flip(0), L.labels.flip(0))
    order = torch.tensor([2, 0, 1])
    mixed = Guidance(G.ids[order], G.labels[order], G.weights[order], G.scores[order])
    one, _ = trained(linear(), steps=5)
    other, _ = trained(linear(), labelled=turned, guidance=mixed, steps=5)
    assert weights_of(other) == pytest.approx(weights_of(one), abs=1e-6)


def test_the_student_never_sees_an_image_outside_both_sets() -> None:
    poisoned = IMAGES.clone()
    poisoned[[i for i in range(len(IMAGES)) if i not in {*L.ids.tolist(), *G.ids.tolist()}]] = torch.nan
    student, _ = trained(linear(), steps=9, batch=2, images=poisoned)
    assert np.isfinite(weights_of(student)).all()


def test_an_empty_pool_leaves_the_labelled_part() -> None:
    nothing = G.at(torch.zeros(0, dtype=torch.long))
    silent = replace(G, weights=torch.zeros(3))
    peers = Peers(torch.tensor([8]), torch.tensor([[0.9, 0.1]]), torch.ones(1, 2, dtype=torch.bool))
    one, _ = trained(linear(), guidance=nothing, steps=4, peers=peers)
    other, _ = trained(linear(), guidance=silent, steps=4, peers=peers)
    assert weights_of(one) == pytest.approx(weights_of(other), abs=1e-6)


def test_an_empty_labelled_set_is_refused() -> None:
    none = torch.zeros(0, dtype=torch.long)
    with pytest.raises(ValueError, match="labelled set is empty"):
        trained(linear(), labelled=Labelled(none, none))


def test_without_the_unlabelled_term_labels_alone_teach() -> None:
    one, _ = trained(linear(), steps=4, unlabelled_weight=0.0)
    other, _ = trained(linear(), steps=4, guidance=replace(G, weights=torch.zeros(3)))
    assert weights_of(one) == weights_of(other)


def test_peers_count_where_they_speak_with_the_clients_own_weights() -> None:
    probs = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    peers = Peers(torch.tensor([11, 5, 8]), probs, torch.ones(3, 2, dtype=torch.bool))
    student = linear()
    expected = copy.deepcopy(student)
    pool = expected(IMAGES[G.ids])
    own = student_loss(expected(IMAGES[L.ids]), L.labels, pool, G.labels, G.weights)
    # In the pool's order 8, 2, 5: nobody speaks of 2, and 5 weighs nothing.
    said, heard = torch.tensor([[0.3, 0.7], [0.5, 0.5], [0.8, 0.2]]), torch.tensor([0.8, 0.0, 0.0])
    torch.autograd.backward(own + 2.0 * weighted_divergence(pool, said, heard))
    torch.optim.SGD(expected.parameters(), lr=0.5).step()
    after, _ = trained(student, peers=peers)
    assert weights_of(after) == pytest.approx(weights_of(expected), abs=1e-6)


def test_columns_that_nobody_owns_teach_nothing() -> None:
    unheard = Peers(torch.tensor([8]), torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]]))
    one, _ = trained(linear(), steps=3, peers=unheard)
    other, _ = trained(linear(), steps=3)
    assert weights_of(one) == pytest.approx(weights_of(other), abs=1e-6)


def test_the_peers_term_alone() -> None:
    peers = Peers(torch.tensor([1, 0]), torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.ones(2, 2, dtype=torch.bool))
    student, weights = linear(), torch.tensor([0.5, 2.0])
    expected = (weights * kl_rows(student(IMAGES[:2]), peers.probs.log())).mean()
    torch.testing.assert_close(peer_loss(student, IMAGES[:2], peers, weights), expected)
    assert peers.at(torch.tensor([1])).ids.tolist() == [0]


def test_the_same_stream_gives_the_same_student_and_another_does_not() -> None:
    images = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    student = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    one, again, other = (
        trained(student, steps=6, batch=2, seed=seed, view=WeakView(), images=images)[0] for seed in (1, 1, 2)
    )
    assert weights_of(one) == weights_of(again)
    assert weights_of(one) != weights_of(other)


def test_predictions_come_in_the_order_of_the_ids_without_dropout() -> None:
    student, ids = nn.Sequential(nn.Dropout(0.9), linear()), torch.tensor([7, 0, 11, 3, 2, 5, 9])
    assert torch.allclose(predict(student, IMAGES, ids, batch_size=5), linear()(IMAGES)[ids], atol=1e-6)
    assert predict(student, IMAGES, ids[:0], batch_size=5).shape == (0, 2)


# Promotion


def test_promotion_by_hand() -> None:
    # CE to the pseudo labels 0 (id 5), 0 (id 8), 1 (id 2): small, large, middle.
    ids, logits = torch.tensor([5, 8, 2]), torch.tensor([[4.0, 0.0], [0.0, 4.0], [0.0, 1.0]])
    after = promote(L, G, ids, logits, share=0.67)
    assert after.moved_ids.tolist() == [5, 2]
    assert after.moved_labels.tolist() == [0, 1]
    assert after.labelled.ids.tolist() == [3, 0, 7, 5, 2]
    assert after.labelled.labels.tolist() == [1, 0, 1, 0, 1]
    assert after.pool_ids.tolist() == [8]


def test_promotion_does_not_ask_in_which_order_the_logits_come() -> None:
    ids, logits = torch.tensor([5, 8, 2]), torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])  # all equal: by id
    order = torch.tensor([1, 2, 0])
    for after in (
        promote(L, G, ids, logits, share=0.67),
        promote(L, G, ids[order], logits[order], share=0.67),
    ):
        assert after.moved_ids.tolist() == [2, 5]
        assert after.moved_labels.tolist() == [1, 0]


def test_the_share_is_of_the_current_pool() -> None:
    ids, logits = torch.tensor([8, 2]), torch.zeros(2, 2)
    assert len(promote(L, G, ids, logits, share=0.4).moved_ids) == 0  # floor(0.8), though the guidance knows three
    assert len(promote(L, G, ids, logits, share=0.5).moved_ids) == 1


def test_nothing_moves_at_share_zero_or_from_an_empty_pool() -> None:
    still = promote(L, G, G.ids, torch.zeros(3, 2), share=0.0)
    assert torch.equal(still.labelled.ids, L.ids)
    assert torch.equal(still.labelled.labels, L.labels)
    assert torch.equal(still.pool_ids, G.ids)
    none = torch.zeros(0, dtype=torch.long)
    assert len(promote(L, G, none, torch.zeros(0, 2), share=1.0).labelled) == 3


def test_no_item_is_lost_over_the_iterations_and_none_is_in_both_sets() -> None:
    draws = torch.Generator().manual_seed(5)
    projections, labels = torch.randn(60, 3, generator=draws), torch.randint(0, 3, (60,), generator=draws)
    labelled, pool = Labelled(torch.arange(6), labels[:6]), torch.arange(6, 60)
    for share in (0.3, 0.2, 0.1):
        size = len(pool)
        guidance = knowledge_of(projections[pool], pool, projections[labelled.ids], labelled.labels, num_classes=3)
        after = promote(labelled, guidance, pool, torch.randn(len(pool), 3, generator=draws), share=share)
        labelled, pool = after.labelled, after.pool_ids
        assert len(pool) == size - int(share * size)
        assert sorted([*labelled.ids.tolist(), *pool.tolist()]) == list(range(60))
    assert torch.equal(labelled.ids[:6], torch.arange(6))
    assert torch.equal(labelled.labels[:6], labels[:6])  # the ground truth stays


def test_the_weights_of_the_stage_are_those_of_the_function() -> None:
    torch.testing.assert_close(margin_weights(SCORES), torch.tensor([0.8, 0.3, 0.0]))

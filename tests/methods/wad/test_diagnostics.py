import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from fedkd.methods.wad.diagnostics import auroc, guidance_figures, loss_figures, promotion_figures
from fedkd.methods.wad.items import Items
from fedkd.methods.wad.stages import Guidance, Labelled, Promotion

# Ids 0 and 1 are labelled, 2 to 5 the client's own unlabelled ones (of classes 0, 1, 2, 2), 6 is of the proxy set.
ITEMS = Items(
    inputs=torch.zeros(7, 1), labels=torch.tensor([0, 1]), proxy_start=6, groups=np.array([0, 1, 2, 2], np.int64)
)
SCORES = torch.tensor([[0.9, 0.1], [0.4, 0.2], [0.6, 0.1], [0.3, 0.3], [0.2, 0.1]])
GUIDANCE = Guidance(
    torch.tensor([2, 3, 4, 5, 6]),
    torch.tensor([0, 0, 0, 0, 0]),
    torch.tensor([0.8, 0.2, 0.5, 0.0, 0.1]),
    SCORES,
)


def test_auroc_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 5, 50).astype(float), rng.random(50) < 0.3
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))


def test_a_pool_of_one_sort_has_no_figures_of_the_other() -> None:
    only_known = Items(inputs=ITEMS.inputs, labels=ITEMS.labels, proxy_start=6, groups=np.zeros(4, np.int64))
    assert guidance_figures(only_known, GUIDANCE).keys() == {"pool_unknown", "weight_known", "pseudo_label_acc"}
    only_unknown = Items(inputs=ITEMS.inputs, labels=ITEMS.labels, proxy_start=6, groups=np.full(4, 2, np.int64))
    assert guidance_figures(only_unknown, GUIDANCE) == {"pool_unknown": 1.0, "weight_unknown": pytest.approx(0.375)}


def test_figures_by_hand() -> None:
    figures = guidance_figures(ITEMS, GUIDANCE)
    assert figures == pytest.approx(
        {
            "auroc": 0.75,  # of the four pairs (0.8 or 0.2 against 0.5 or 0.0) one is the wrong way round
            "auroc_nearest": 0.75,
            "weight_known": 0.5,
            "weight_unknown": 0.25,
            "pseudo_label_acc": 0.5,
            "pool_unknown": 0.5,
        }
    )


def test_shares_of_the_loss_by_hand() -> None:
    logits = torch.zeros(5, 2)
    logits[0, 0] = 100.0  # the first costs nothing, the others ln 2 each
    figures = loss_figures(ITEMS, GUIDANCE, logits)
    assert figures["weight_share_unknown"] == pytest.approx(0.5 / 1.5)
    assert figures["loss_share_unknown"] == pytest.approx(0.5 / 0.7)


def test_purity_is_of_those_whose_class_is_told() -> None:
    moved, labels = torch.tensor([2, 3, 6]), torch.tensor([0, 0, 1])
    promotion = Promotion(Labelled(moved, labels), moved, moved, labels)
    assert promotion_figures(ITEMS, promotion) == {"promoted": 3.0, "promoted_purity": 0.5}
    none = torch.zeros(0, dtype=torch.long)
    nobody = Promotion(Labelled(none, none), none, none, none)
    assert promotion_figures(ITEMS, nobody) == {"promoted": 0.0}
    told = Items(inputs=ITEMS.inputs, labels=ITEMS.labels, proxy_start=6, groups=None)
    assert guidance_figures(told, GUIDANCE) == loss_figures(told, GUIDANCE, torch.zeros(5, 2)) == {}

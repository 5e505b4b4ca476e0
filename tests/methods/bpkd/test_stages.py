from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedkd.errors import ConfigError
from fedkd.functional.bpkd import (
    IGNORED,
    body_loss,
    body_rows,
    channel_wise_loss,
    edge_band,
    edge_loss,
    edge_mask,
    edge_rows,
    join_streams,
    pixel_loss,
    place_bodies,
    place_edges,
)
from fedkd.methods.bpkd.config import BPKDConfig
from fedkd.methods.bpkd.stages import (
    Terms,
    consensus_terms,
    distil_terms,
    edges_of,
    predicted_band,
    predicted_labels,
)
from fedkd.tasks import base

CONFIG = BPKDConfig(edge_width=3, lambda_edge=0.5, lambda_body=3.0)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_case(classes: int = 3, size: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Student and teacher logits and labels at twice their size."""
    student, teacher = (torch.randn(2, classes, size, size, generator=rng(seed)) for seed in range(2))
    return student, teacher, torch.randint(0, classes, (2, 2 * size, 2 * size), generator=rng())


def terms_of(config: BPKDConfig, student: Tensor, teacher: Tensor, labels: Tensor) -> Terms:
    return distil_terms(config, student, teacher, lambda: labels)


# --- the configuration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("order", "together"),
        ("loss", "bpdk"),
        ("lambda_edge", -0.1),
        ("lambda_body", -1.0),
        ("kd_weight", -1.0),
        ("alpha", -1.0),
        ("temperature", 0.0),
        ("edge_width", 4),
        ("edge_width", 1),
        ("edge_norm", "mean"),
        ("trimap", "random"),
        ("teacher_steps", -1),
        ("share", "edges"),
        ("body_factor", 0),
    ],
)
def test_wrong_values_are_refused_with_their_key(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as error:
        BPKDConfig(**{key: value})
    assert error.value.key == key


def test_defaults_are_those_of_the_specification() -> None:
    config = BPKDConfig()
    assert (config.lambda_body, config.lambda_edge, config.alpha, config.temperature) == (20.0, 50.0, 2.0, 4.0)
    assert (config.edge_width, config.edge_norm) == (7, "per_class")


# --- the terms --------------------------------------------------------------------------------------------------------


def test_terms_are_the_weighted_losses_on_resized_teacher_logits() -> None:
    student, teacher, labels = random_case()
    coarse = teacher[:, :, ::2, ::2]
    edges = edge_mask(labels, num_classes=3, size=(8, 8), width=3)
    resized = nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear", align_corners=False)
    terms = terms_of(CONFIG, student, coarse, labels)
    assert terms.keys() == {"edge", "body"}
    torch.testing.assert_close(terms["edge"], 0.5 * edge_loss(student, resized, edges, temperature=4.0, alpha=2.0))
    torch.testing.assert_close(terms["body"], 3.0 * body_loss(student, resized, edges, temperature=4.0))


def test_controls_are_plain_losses_that_ask_for_no_labels() -> None:
    student, teacher, _ = random_case()

    def nobody() -> Tensor:
        raise AssertionError("asked")

    kl = distil_terms(replace(CONFIG, loss="kl", kd_weight=2.0, temperature=1.0), student, teacher, nobody)
    torch.testing.assert_close(kl["kl"], 2.0 * pixel_loss(student, teacher, temperature=1.0))
    cwd = distil_terms(replace(CONFIG, loss="cwd", kd_weight=3.0), student, teacher, nobody)
    torch.testing.assert_close(cwd["cwd"], 3.0 * channel_wise_loss(student, teacher, temperature=4.0))
    assert distil_terms(replace(CONFIG, loss="ce"), student, teacher, nobody) == {}


def test_the_shuffled_control_takes_the_edges_of_the_next_image() -> None:
    student, _, labels = random_case()
    right = edges_of(CONFIG, labels, student)
    wrong = edges_of(replace(CONFIG, trimap="shuffled"), labels, student)
    assert torch.equal(wrong, right.flip(0))
    assert not torch.equal(wrong, right)


def test_models_of_other_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="head of the same task"):
        terms_of(CONFIG, torch.zeros(2, 3, 8, 8), torch.zeros(2, 4, 8, 8), torch.zeros(2, 8, 8))


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher, labels = random_case()
    terms = terms_of(CONFIG, student.requires_grad_(), teacher.requires_grad_(), labels)
    torch.stack(list(terms.values())).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_give_finite_terms(dtype: torch.dtype) -> None:
    student, teacher, labels = random_case()
    student, teacher = (1000 * logits.to(dtype) for logits in (student, teacher))
    for loss in ("bpkd", "kl", "cwd"):
        terms = terms_of(replace(CONFIG, loss=loss), student, teacher[:, :, ::2, ::2], labels)
        assert all(term.isfinite() for term in terms.values())


# --- labels from predictions and the consensus ------------------------------------------------------------------------


def test_predicted_labels_upsample_before_the_arg_max() -> None:
    logits = torch.zeros(1, 2, 1, 2)
    logits[0, 1, 0] = torch.tensor([-1.0, 3.0])  # at four columns: -1, 0, 2, 3
    assert predicted_labels(logits, (1, 4)).tolist() == [[[0, 0, 1, 1]]]


def test_absent_pixels_are_ignored_ones() -> None:
    present = torch.tensor([[[True, False]]])
    labels = predicted_labels(torch.zeros(1, 2, 1, 2), (2, 4), present=present)
    assert labels.tolist() == [[[0, 0, IGNORED, IGNORED]] * 2]


def test_a_band_is_found_a_few_images_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = 5 * torch.randn(5, 3, 6, 6, generator=rng())
    present = torch.rand(5, 6, 6, generator=rng(1)) < 0.9
    expected = edge_band(predicted_labels(logits, (12, 12), present=present), size=(6, 6), width=3)
    assert torch.equal(predicted_band(logits, (12, 12), width=3, present=present), expected)
    monkeypatch.setattr("fedkd.methods.bpkd.stages.VALUES_AT_ONCE", 2 * 3 * 12 * 12)
    assert base.VALUES_AT_ONCE > 2 * 3 * 12 * 12
    assert torch.equal(predicted_band(logits, (12, 12), width=3, present=present), expected)
    assert predicted_band(logits[:0], (12, 12), width=3).shape == (0, 6, 6)


def test_consensus_terms_take_the_trimap_from_its_arg_max() -> None:
    student, consensus, _ = random_case()
    labels = nn.functional.interpolate(consensus, size=(16, 16), mode="bilinear", align_corners=False).argmax(1)
    terms, expected = (
        consensus_terms(CONFIG, student, consensus, (16, 16)),
        terms_of(CONFIG, student, consensus, labels),
    )
    assert terms.keys() == expected.keys()
    for name, value in terms.items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize("loss", ["bpkd", "kl", "cwd"])
def test_absent_pixels_teach_nothing(loss: str) -> None:
    student, consensus, _ = random_case()
    present = torch.rand(2, 8, 8, generator=rng(2)) < 0.7
    consensus = consensus * present.unsqueeze(1)
    config = replace(CONFIG, loss=loss)
    terms = consensus_terms(config, student.requires_grad_(), consensus, (16, 16), present=present)
    torch.stack(list(terms.values())).sum().backward()
    assert student.grad is not None
    assert not student.grad.movedim(1, -1)[~present].any()
    assert student.grad.movedim(1, -1)[present].any()


def test_a_consensus_without_any_pixel_is_zero() -> None:
    student = torch.randn(1, 3, 8, 8, generator=rng()).requires_grad_()
    terms = consensus_terms(CONFIG, student, torch.zeros(1, 3, 8, 8), (16, 16), present=torch.zeros(1, 8, 8).bool())
    assert [term.item() for term in terms.values()] == [0.0, 0.0]


def test_a_student_of_another_stride_learns_on_the_grid_of_the_consensus() -> None:
    student, consensus = torch.randn(1, 2, 16, 16, generator=rng()), torch.randn(1, 2, 8, 8, generator=rng(1))
    terms = consensus_terms(CONFIG, student, consensus, (32, 32))
    coarse = nn.functional.interpolate(student, size=(8, 8), mode="bilinear", align_corners=False)
    for name, value in consensus_terms(CONFIG, coarse, consensus, (32, 32)).items():
        torch.testing.assert_close(terms[name], value)


def test_a_selective_share_keeps_the_teachers_word_at_the_edges() -> None:
    labels = (torch.arange(16) >= 7).long().expand(2, 16, 16)
    logits = 3 * nn.functional.one_hot(labels[:, ::2, ::2], 2).movedim(-1, 1) + torch.randn(2, 2, 8, 8, generator=rng())
    band = edge_band(labels, size=(8, 8), width=3)
    assert 0 < band.float().mean() < 0.5
    dense, present = join_streams(
        place_edges(*edge_rows(logits, band), shape=(2, 8, 8)),
        place_bodies(*body_rows(logits, band, factor=4), shape=(2, 8, 8), factor=4),
    )
    assert present.all()
    assert torch.equal(dense.argmax(1)[band], logits.argmax(1)[band])
    student = torch.randn(2, 2, 8, 8, generator=rng(1))
    whole, selective = (terms_of(CONFIG, student, z, labels) for z in (logits, dense))
    assert torch.equal(whole["edge"], selective["edge"])
    assert whole["body"] != selective["body"]

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedkd.errors import ConfigError
from fedkd.functional.bpkd import (
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
from fedkd.methods.bpkd.scores import SegmentationScores, band_of_labels
from fedkd.methods.bpkd.stages import (
    consensus_step,
    consensus_terms,
    distil_terms,
    edges_of,
    label_loss,
    predicted_labels,
    private_terms,
    resize,
    segmentation_logits,
    student_step,
    train_student,
    train_teacher,
)

CONFIG = BPKDConfig(edge_width=3, lambda_edge=0.5, lambda_body=3.0)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stripes(images: int = 4, size: int = 16) -> tuple[Tensor, Tensor]:
    """Images of two halves whose colours are their classes, split at a column of their own, and noise."""
    at = torch.randint(4, size - 4, (images,), generator=rng(1))
    labels = (torch.arange(size).view(1, 1, size) >= at.view(-1, 1, 1)).long().expand(images, size, size).contiguous()
    colour = nn.functional.one_hot(labels, 2).movedim(-1, 1).float()
    return colour + 0.3 * torch.randn(colour.shape, generator=rng(2)), labels


def tiny_model(seed: int, *, stride: int = 2, channels: int = 2, classes: int = 2) -> nn.Module:
    convolution, head = nn.Conv2d(channels, 6, 3, stride=stride, padding=1), nn.Conv2d(6, classes, 1)
    generator = rng(seed)
    with torch.no_grad():
        for parameter in (*convolution.parameters(), *head.parameters()):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return nn.Sequential(convolution, nn.ReLU(), head)


def adam(model: nn.Module, lr: float = 0.02) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=lr)


# --- the configuration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("loss", "bpdk"),
        ("lambda_edge", -0.1),
        ("lambda_body", -1.0),
        ("kd_weight", -1.0),
        ("alpha", -1.0),
        ("temperature", 0.0),
        ("edge_width", 4),
        ("edge_width", 1),
        ("edge_norm", "mean"),
        ("teacher_steps", -1),
        ("teacher_batch", 0),
        ("teacher_lr", 0.0),
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
    assert (config.edge_width, config.edge_norm, config.ignore_index) == (7, "per_class", 255)


# --- outputs of models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [lambda z: z, lambda z: {"out": z, "aux": 0 * z}, lambda z: {"logits": z}, lambda z: SimpleNamespace(logits=z)],
)
def test_logits_are_found_in_what_models_return(wrap: Any) -> None:
    logits = torch.ones(1, 2, 3, 4)
    assert segmentation_logits(wrap(logits)) is logits


@pytest.mark.parametrize("output", [None, {"masks": torch.ones(1, 2, 3, 4)}, (torch.ones(1, 2, 3, 4),)])
def test_other_outputs_are_refused(output: Any) -> None:
    with pytest.raises(TypeError, match="'out' or 'logits'"):
        segmentation_logits(output)


def test_logits_of_an_image_classifier_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 10\)"):
        segmentation_logits(torch.zeros(2, 10))


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"])
def test_torchvision_models_learn_from_one_another(name: str) -> None:
    from torchvision.models import segmentation

    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
        student = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=3)
    images = torch.randn(2, 3, 32, 32, generator=rng())
    labels = torch.zeros(2, 32, 32, dtype=torch.long)
    labels[:, 8:24, 8:24] = 1
    labels[:, :2] = 255
    before = [parameter.clone() for parameter in student.parameters()]
    terms = student_step(CONFIG, student.train(), teacher, adam(student), images, labels)
    assert set(terms) == {"ce", "edge", "body"}
    assert all(term.isfinite() and term > 0 for term in terms.values())
    assert any(not torch.equal(old, new) for old, new in zip(before, student.parameters(), strict=True))


def test_a_transformers_model_of_stride_four_teaches_one_of_stride_two() -> None:
    transformers = pytest.importorskip("transformers")
    shape = transformers.SegformerConfig(
        num_labels=2,
        num_channels=2,
        depths=[1] * 4,
        hidden_sizes=[8] * 4,
        num_attention_heads=[1] * 4,
        decoder_hidden_size=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = transformers.SegformerForSemanticSegmentation(shape)
    images, labels = stripes(2, size=32)
    assert segmentation_logits(teacher(images)).shape == (2, 2, 8, 8)
    student = tiny_model(0)
    terms = student_step(CONFIG, student, teacher, adam(student), images, labels)
    assert all(term.isfinite() and term > 0 for term in terms.values())


# --- the terms --------------------------------------------------------------------------------------------------------


def test_label_loss_by_hand() -> None:
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 0, 0, 0] = math.log(3)
    labels = torch.tensor([[[0, 1], [255, 255]]])
    expected = (-math.log(0.75) - math.log(0.5)) / 2
    assert label_loss(logits, labels, ignore_index=255).item() == pytest.approx(expected)


def test_label_loss_is_taken_at_the_size_of_the_labels() -> None:
    logits = torch.randn(2, 3, 4, 4, generator=rng())
    labels = torch.randint(0, 3, (2, 9, 7), generator=rng())
    at_labels = nn.functional.interpolate(logits, size=(9, 7), mode="bilinear", align_corners=False)
    expected = nn.functional.cross_entropy(at_labels, labels)
    torch.testing.assert_close(label_loss(logits, labels, ignore_index=255), expected)
    torch.testing.assert_close(label_loss(logits, labels.to(torch.uint8), ignore_index=255), expected)


def test_without_labelled_pixels_the_loss_is_zero_with_a_gradient_path() -> None:
    logits = torch.randn(1, 3, 4, 4, generator=rng()).requires_grad_()
    loss = label_loss(logits, torch.full((1, 8, 8), 255), ignore_index=255)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_private_terms_are_the_weighted_losses_on_resized_teacher_logits() -> None:
    student, teacher = torch.randn(2, 3, 8, 8, generator=rng()), torch.randn(2, 3, 4, 4, generator=rng(1))
    labels = torch.randint(0, 3, (2, 16, 16), generator=rng())
    edges = edge_mask(labels, num_classes=3, size=(8, 8), width=3)
    resized = nn.functional.interpolate(teacher, size=(8, 8), mode="bilinear", align_corners=False)
    terms = private_terms(CONFIG, student, teacher, labels)
    expected = {
        "ce": label_loss(student, labels, ignore_index=255),
        "edge": 0.5 * edge_loss(student, resized, edges, temperature=4.0, alpha=2.0),
        "body": 3.0 * body_loss(student, resized, edges, temperature=4.0),
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)


def test_controls_are_plain_losses_and_no_teacher_leaves_cross_entropy() -> None:
    student, teacher = torch.randn(2, 3, 8, 8, generator=rng()), torch.randn(2, 3, 8, 8, generator=rng(1))
    labels = torch.randint(0, 3, (2, 16, 16), generator=rng())
    kl = private_terms(replace(CONFIG, loss="kl", kd_weight=2.0, temperature=1.0), student, teacher, labels)
    torch.testing.assert_close(kl["kl"], 2.0 * pixel_loss(student, teacher, temperature=1.0))
    cwd = private_terms(replace(CONFIG, loss="cwd", kd_weight=3.0), student, teacher, labels)
    torch.testing.assert_close(cwd["cwd"], 3.0 * channel_wise_loss(student, teacher, temperature=4.0))
    assert set(private_terms(replace(CONFIG, loss="ce"), student, teacher, labels)) == {"ce"}
    assert set(private_terms(CONFIG, student, None, labels)) == {"ce"}


def test_models_of_other_classes_are_refused() -> None:
    student, teacher = torch.zeros(2, 3, 8, 8), torch.zeros(2, 4, 8, 8)
    with pytest.raises(ValueError, match="head of the same task"):
        distil_terms(CONFIG, student, teacher, torch.zeros_like(student))


def test_the_teacher_gets_no_gradient() -> None:
    student = torch.randn(1, 2, 4, 4, generator=rng()).requires_grad_()
    teacher = torch.randn(1, 2, 4, 4, generator=rng(1)).requires_grad_()
    terms = private_terms(CONFIG, student, teacher, torch.randint(0, 2, (1, 8, 8), generator=rng()))
    torch.stack(list(terms.values())).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_give_finite_terms(dtype: torch.dtype) -> None:
    student, teacher = (1000 * torch.randn(2, 3, 8, 8, generator=rng(i)).to(dtype) for i in range(2))
    labels = torch.randint(0, 3, (2, 16, 16), generator=rng())
    for loss in ("bpkd", "kl", "cwd"):
        terms = private_terms(replace(CONFIG, loss=loss), student, teacher[:, :, ::2, ::2], labels)
        assert all(term.isfinite() for term in terms.values())


# --- labels from predictions and the consensus ------------------------------------------------------------------------


def test_predicted_labels_upsample_before_the_arg_max() -> None:
    logits = torch.zeros(1, 2, 1, 2)
    logits[0, 1, 0] = torch.tensor([-1.0, 3.0])  # at four columns: -1, 0, 2, 3
    assert predicted_labels(logits, (1, 4), ignore_index=255).tolist() == [[[0, 0, 1, 1]]]


def test_absent_pixels_are_ignored_ones() -> None:
    present = torch.tensor([[[True, False]]])
    labels = predicted_labels(torch.zeros(1, 2, 1, 2), (2, 4), present=present, ignore_index=255)
    assert labels.tolist() == [[[0, 0, 255, 255]] * 2]


def test_consensus_terms_take_the_trimap_from_its_arg_max() -> None:
    student, consensus = torch.randn(2, 3, 8, 8, generator=rng()), 5 * torch.randn(2, 3, 8, 8, generator=rng(1))
    labels = resize(consensus, (16, 16)).argmax(1)
    terms = consensus_terms(CONFIG, student, consensus, (16, 16))
    assert set(terms) == {"edge", "body"}
    expected = private_terms(CONFIG, student, consensus, labels)
    for name, value in terms.items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize("loss", ["bpkd", "kl", "cwd"])
def test_absent_pixels_teach_nothing(loss: str) -> None:
    config = replace(CONFIG, loss=loss)
    student = torch.randn(1, 3, 8, 8, generator=rng()).requires_grad_()
    consensus = torch.randn(1, 3, 8, 8, generator=rng(1))
    present = torch.rand(1, 8, 8, generator=rng(2)) < 0.7
    consensus = consensus * present.unsqueeze(1)
    terms = consensus_terms(config, student, consensus, (16, 16), present=present)
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
    expected = consensus_terms(CONFIG, resize(student, (8, 8)), consensus, (32, 32))
    for name, value in terms.items():
        torch.testing.assert_close(value, expected[name])


def test_a_selective_share_keeps_the_teachers_word_at_the_edges() -> None:
    images, labels = stripes()
    logits = tiny_model(3)(images).detach()
    edges = edges_of(CONFIG, labels, logits)
    band = edge_band(edges)
    assert 0 < band.float().mean() < 0.5
    shape = (4, 8, 8)
    dense, present = join_streams(
        place_edges(*edge_rows(logits, band), shape=shape),
        place_bodies(*body_rows(logits, band, factor=4), shape=shape, factor=4),
    )
    assert present.all()
    assert torch.equal(dense.argmax(1)[band], logits.argmax(1)[band])
    student = torch.randn(4, 2, 8, 8, generator=rng())
    whole, selective = (distil_terms(CONFIG, student, z, edges) for z in (logits, dense))
    assert torch.equal(whole["edge"], selective["edge"])
    assert whole["body"] != selective["body"]


# --- training ---------------------------------------------------------------------------------------------------------


def test_a_teacher_learns_and_is_frozen_and_a_student_learns_from_it() -> None:
    images, labels = stripes(8)
    teacher, student = tiny_model(0), tiny_model(1)
    first = train_teacher(teacher, adam(teacher), [(images, labels)] * 30, ignore_index=255)
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    last = label_loss(teacher(images), labels, ignore_index=255).item()
    assert last < 0.5 * first["ce"]
    weights = [parameter.clone() for parameter in teacher.parameters()]
    early = train_student(CONFIG, student, teacher, adam(student), [(images, labels)] * 5)
    late = train_student(CONFIG, student, teacher, adam(student), [(images, labels)] * 40)
    assert set(late) == {"ce", "edge", "body", "loss"}
    assert late["loss"] == pytest.approx(late["ce"] + late["edge"] + late["body"])
    assert all(late[name] < early[name] for name in late)
    assert all(torch.equal(old, new) for old, new in zip(weights, teacher.parameters(), strict=True))


def test_a_student_learns_the_consensus_without_labels() -> None:
    images, labels = stripes(8)
    consensus = 6.0 * nn.functional.one_hot(labels[:, ::2, ::2], 2).movedim(-1, 1) - 3.0
    student = tiny_model(1)
    optimizer = adam(student)
    before = label_loss(student(images), labels, ignore_index=255).item()
    for _ in range(40):
        terms = consensus_step(CONFIG, student, optimizer, images, consensus)
    assert set(terms) == {"edge", "body"}
    assert label_loss(student(images), labels, ignore_index=255).item() < 0.5 * before


def test_cross_entropy_alone_takes_no_step_on_a_consensus_and_asks_no_teacher() -> None:
    images, labels = stripes()
    student = tiny_model(1)
    weights = [parameter.clone() for parameter in student.parameters()]
    config = replace(CONFIG, loss="ce")
    assert consensus_step(config, student, adam(student), images, torch.zeros(4, 2, 8, 8)) == {}
    assert all(torch.equal(old, new) for old, new in zip(weights, student.parameters(), strict=True))

    class Silent(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise AssertionError("asked")

    assert set(student_step(config, student, Silent(), adam(student), images, labels)) == {"ce"}


def test_no_batches_leave_no_metrics() -> None:
    student = tiny_model(1)
    assert train_student(CONFIG, student, None, adam(student), []) == {}


# --- scores -----------------------------------------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    labels = torch.tensor([[[0, 0, 0, 0, 1, 1, 1, 255]]])
    predicted = torch.tensor([[[0, 0, 0, 1, 1, 1, 0, 2]]])
    band = band_of_labels(labels, num_classes=3, width=3, ignore_index=255)
    assert band.tolist() == [[[False, False, False, True, True, False, True, False]]]
    scores = SegmentationScores(num_classes=3, edge_width=3, ignore_index=255)
    scores.update(predicted, labels)
    # Everywhere class 0 hits 3 of 5 and class 1 hits 2 of 4, in the band 0 of 2 and 1 of 3; class 2 never counts.
    assert scores.compute() == pytest.approx({"miou": (3 / 5 + 2 / 4) / 2, "edge_miou": (0 / 2 + 1 / 3) / 2})


def test_scores_add_up_over_batches_and_are_absent_where_nothing_counts() -> None:
    labels = torch.randint(0, 3, (4, 6, 6), generator=rng())
    predicted = torch.randint(0, 3, (4, 6, 6), generator=rng(1))
    whole, parts = (SegmentationScores(num_classes=3, edge_width=3, ignore_index=255) for _ in range(2))
    whole.update(predicted, labels)
    for i in range(4):
        parts.update(predicted[i : i + 1], labels[i : i + 1])
    assert parts.compute() == whole.compute()
    flat = SegmentationScores(num_classes=3, edge_width=3, ignore_index=255)
    assert flat.compute() == {}
    flat.update(predicted, torch.full_like(labels, 255))
    assert flat.compute() == {}
    flat.update(torch.zeros(1, 4, 4, dtype=torch.long), torch.zeros(1, 4, 4, dtype=torch.long))
    assert flat.compute() == {"miou": 1.0}

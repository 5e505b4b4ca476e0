import copy
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import nn

from fedkd.errors import ConfigError
from fedkd.functional.wad import nt_xent, unit_rows
from fedkd.methods.wad.config import WADConfig
from fedkd.methods.wad.stages import Guidance, knowledge_of
from fedkd.methods.wad.teacher import ContrastiveEncoder, embed, teacher_lr, teacher_optimizer, train_teacher
from fedkd.methods.wad.views import SmallView
from fedkd.models.build import build_model
from fedkd.models.config import ModelConfig
from fedkd.models.pool import snapshot
from fedkd.models.spec import ModelSpec

pytestmark = pytest.mark.usefixtures("one_torch_thread")

IMAGES = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
TINY = WADConfig(
    view="small",
    projection=32,
    teacher_epochs=2,
    teacher_batch=4,
    teacher_optimizer="adam",
    teacher_lr=2e-3,
    teacher_weight_decay=0.0,
    teacher_schedule="constant",
    teacher_warmup_epochs=0,
    teacher_warmup_factor=1.0,
)


def tiny(seed: int = 0, *, projection: int = 32) -> ContrastiveEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = nn.Sequential(
            nn.Conv2d(1, 16, 3, 1, 1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, 64),
            nn.ReLU(),
            nn.Linear(64, 2),
        )
        return ContrastiveEncoder(backbone, projection=projection)


def trained(encoder: ContrastiveEncoder, config: WADConfig = TINY, *, seed: int = 0) -> dict[str, float]:
    return train_teacher(
        encoder,
        IMAGES,
        teacher_optimizer(encoder, config),
        config,
        view=SmallView(),
        rng=np.random.default_rng(seed),
    )


@pytest.mark.parametrize(("name", "width"), [("mlp", 20), ("cnn", 50), ("resnet8", 64)])
def test_the_reference_models_lose_their_head_and_get_a_projection(name: str, width: int) -> None:
    shape = (1, 16, 16)
    model = build_model(name, ModelConfig(hidden=20), ModelSpec(input_shape=shape, num_outputs=10))
    encoder = ContrastiveEncoder(model, projection=7)
    images = torch.zeros(2, *shape)
    assert encoder.features(images).shape == (2, width)
    assert encoder(images).shape == (2, 7)
    assert [type(layer) for layer in encoder.head] == [nn.Linear, nn.ReLU, nn.Linear]
    assert (encoder.head[0].in_features, encoder.head[0].out_features) == (width, width)


def test_a_torchvision_model_loses_its_head() -> None:
    model = build_model("torchvision/resnet18", ModelConfig(), ModelSpec(input_shape=(3, 32, 32), num_outputs=10))
    encoder = ContrastiveEncoder(model, projection=5).eval()
    assert encoder.features(torch.zeros(1, 3, 32, 32)).shape == (1, 512)


def test_a_model_without_a_removable_head_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"teacher\.name names a Sequential, which has no linear layer") as caught:
        ContrastiveEncoder(nn.Sequential(nn.Conv2d(1, 2, 3)), projection=5)
    assert caught.value.key == "teacher.name"


def test_the_rate_of_the_paper() -> None:
    rates = [teacher_lr(WADConfig(), epoch) for epoch in (0, 5, 10, 360, 700)]
    last = 0.5 * (1 + math.cos(math.pi * 690 / 700))
    assert rates == pytest.approx([0.1, 0.55, 1.0, 0.5, last])


def test_a_warm_up_by_factor_one_starts_at_nothing() -> None:
    config = WADConfig(teacher_warmup_factor=1.0, teacher_schedule="constant")
    assert [teacher_lr(config, epoch) for epoch in (0, 5, 10, 11)] == pytest.approx([0.0, 0.05, 0.1, 0.1])


def test_without_a_warm_up_the_cosine_starts_at_once() -> None:
    config = WADConfig(teacher_warmup_epochs=0, teacher_warmup_factor=1.0)
    assert [teacher_lr(config, epoch) for epoch in (0, 350, 700)] == pytest.approx([0.1, 0.05, 0.0])


def test_training_sets_the_rate_of_each_step_one_step_late() -> None:
    rates: list[float] = []

    class Recorded(torch.optim.SGD):
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            rates.append(self.param_groups[0]["lr"])

    encoder = tiny()
    config = WADConfig(teacher_epochs=2, teacher_batch=4, teacher_warmup_epochs=1, teacher_warmup_factor=3.0)
    train_teacher(
        encoder,
        IMAGES,
        Recorded(encoder.parameters(), lr=9.0),
        config,
        view=SmallView(),
        rng=np.random.default_rng(0),
    )
    assert rates == pytest.approx([0.1, 0.1, 0.2, 0.3])  # ten images make two full batches of four


def test_training_is_the_same_for_the_same_stream_and_moves_no_global_stream() -> None:
    before = torch.get_rng_state()
    one, again, other = tiny(), tiny(), tiny()
    losses = [trained(one, seed=1), trained(again, seed=1), trained(other, seed=2)]
    assert losses[0] == losses[1] != losses[2]
    for name, value in snapshot(one).items():
        assert torch.equal(value, snapshot(again)[name])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("count", [0, 1])
def test_what_has_nothing_to_be_told_from_teaches_nothing(count: int) -> None:
    encoder = tiny()
    metrics = train_teacher(
        encoder,
        IMAGES[:count],
        teacher_optimizer(encoder, TINY),
        TINY,
        view=SmallView(),
        rng=np.random.default_rng(0),
    )
    assert metrics == {}
    assert torch.equal(encoder.head[0].weight, tiny().head[0].weight)


def test_embeddings_of_clean_images_are_unit_projections_in_evaluation_mode() -> None:
    encoder = tiny()
    clean = embed(encoder, IMAGES, view=SmallView(), views=0, rng=np.random.default_rng(0), batch_size=4)
    assert not encoder.training
    torch.testing.assert_close(clean, unit_rows(encoder(IMAGES)).detach())
    assert not clean.requires_grad
    assert embed(encoder, IMAGES[:0], view=SmallView(), views=2, rng=np.random.default_rng(0), batch_size=4).shape == (
        0,
        32,
    )


def test_embeddings_of_several_views_are_their_mean() -> None:
    encoder = tiny()
    drawn: list[torch.Tensor] = []

    def counted(images: torch.Tensor, _: torch.Generator) -> torch.Tensor:
        drawn.append(images + len(drawn))
        return drawn[-1]

    mean = embed(encoder, IMAGES, view=counted, views=3, rng=np.random.default_rng(0), batch_size=10)
    torch.testing.assert_close(mean, torch.stack([unit_rows(encoder(view)) for view in drawn]).mean(0).detach())
    assert len(drawn) == 3


def test_the_loss_is_that_of_two_views_of_each_image() -> None:
    # Without randomness both views are the image, and the first batch holds all images.
    calm = SmallView(linear=0.0, shift=0.0, intensity=0.0, noise=0.0)
    encoder = tiny()
    expected = nt_xent(unit_rows(copy.deepcopy(encoder)(IMAGES.repeat(2, 1, 1, 1))), temperature=TINY.temperature)
    config = WADConfig(teacher_epochs=1, teacher_batch=64)
    metrics = train_teacher(
        encoder, IMAGES, teacher_optimizer(encoder, config), config, view=calm, rng=np.random.default_rng(0)
    )
    assert metrics["contrastive_loss"] == pytest.approx(expected.item(), rel=1e-4)


def test_the_teacher_tells_known_digits_from_unknown_and_an_untrained_one_does_not() -> None:
    pixels, digits = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    known, unknown = (rng.permutation(np.flatnonzero(chosen)) for chosen in (digits < 2, digits >= 2))
    own = np.concatenate([known[digits[known] == digit][:10] for digit in (0, 1)])
    ids = np.concatenate([own, np.setdiff1d(known, own)[:60], unknown[:240]])
    images = torch.from_numpy((pixels[ids] / 16).astype(np.float32).reshape(-1, 1, 8, 8))
    labels = torch.from_numpy(digits[ids])
    is_known, encoder = (labels[20:] < 2), tiny()

    def guided(own_labels: torch.Tensor) -> Guidance:
        seen = embed(encoder, images, view=SmallView(), views=1, rng=np.random.default_rng(9), batch_size=512)
        return knowledge_of(seen[20:], torch.arange(20, len(images)), seen[:20], own_labels, num_classes=2)

    untrained = guided(labels[:20]).weights
    config = WADConfig(**{**vars(TINY), "teacher_epochs": 40, "teacher_batch": 64})
    train_teacher(
        encoder,
        images,
        teacher_optimizer(encoder, config),
        config,
        view=SmallView(),
        rng=np.random.default_rng(0),
    )
    guidance = guided(labels[:20])
    separation = roc_auc_score(is_known, guidance.weights)
    assert separation > 0.85
    assert separation > roc_auc_score(is_known, untrained) + 0.05
    assert guidance.weights[is_known].mean() > 1.5 * guidance.weights[~is_known].mean()
    assert (guidance.labels[is_known] == labels[20:][is_known]).float().mean() > 0.95
    # One permutation of twenty labels of two classes can be lucky; the mean of many is chance.
    permuted = [
        (guided(labels[torch.from_numpy(rng.permutation(20))]).labels[is_known] == labels[20:][is_known]).float().mean()
        for _ in range(10)
    ]
    assert abs(float(torch.stack(permuted).mean()) - 0.5) < 0.2

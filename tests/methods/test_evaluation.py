from dataclasses import replace

import pytest

from fedkd.methods import evaluation
from fedkd.methods.base import DeviceProfile
from fedkd.methods.evaluation import evaluate_rows
from fedkd.tasks import base
from fedkd.testing.toys import TOYS, Toy
from tests.contract.toys import trainer_of

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.mark.parametrize("task", ["classification", "segmentation", "language", "image_text"])
def test_blocks_of_samples_add_up_to_the_whole(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, toy = trainer_of("soft_targets"), TOYS[task]
    ctx = replace(toy.context(), profile=DeviceProfile(predict_batch=3))
    state = trainer.init(ctx)
    whole = evaluate_rows(trainer, ctx, state, toy.test)
    rows_of_a_sample = ctx.task.rows_per_sample * ctx.task.num_outputs
    asked: list[int] = []
    predict = trainer.predict
    monkeypatch.setattr(trainer, "predict", lambda *given: asked.append(len(given[2])) or predict(*given))
    for module in (base, evaluation):
        monkeypatch.setattr(module, "VALUES_AT_ONCE", 7 * rows_of_a_sample)
    blocks = evaluate_rows(trainer, ctx, state, toy.test)
    assert asked == [6] * (len(toy.test) // 6) + [len(toy.test) % 6] * (len(toy.test) % 6 > 0)  # two whole batches each
    assert blocks.metrics == pytest.approx(whole.metrics)
    assert {name: table.tolist() for name, table in blocks.tables.items()} == {
        name: table.tolist() for name, table in whole.tables.items()
    }


def test_nothing_to_evaluate_scores_zero() -> None:
    trainer, toy = trainer_of("soft_targets"), Toy()
    found = trainer.evaluate(toy.context(), trainer.init(toy.context()), toy.test.take(toy.accepted[:0]))
    assert found.score == 0.0


def test_seen_classes_have_figures_of_their_own() -> None:
    trainer, toy = trainer_of("soft_targets"), Toy()
    ctx = toy.context()
    found = evaluate_rows(trainer, ctx, trainer.init(ctx), toy.test, seen=toy.train.labels[:1])
    assert found.metrics.keys() == {"acc", "acc_seen", "acc_unseen", "acc_harmonic"}

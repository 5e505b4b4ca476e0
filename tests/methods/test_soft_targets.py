from typing import Any

import numpy as np
import pytest
import torch

from fedkd.errors import ConfigError
from fedkd.functional.aggregation import softmax
from fedkd.methods.base import State
from fedkd.methods.local_training import ORDERS
from fedkd.methods.schedule import ScheduleConfig
from fedkd.methods.soft_targets import SoftTargets, SoftTargetsConfig
from fedkd.rows import Knowledge, Rows
from fedkd.types import Metrics
from tests.contract.toys import FEATURES, Toy, digest_of, rows

pytestmark = pytest.mark.usefixtures("one_torch_thread")

NOTHING = Knowledge()
TAUGHT = Knowledge(common=(rows(range(6), [[4.0 * i - 9, 1.0] for i in range(6)]),))


def fit(
    state: State | None = None,
    knowledge: Knowledge = TAUGHT,
    *,
    closing: bool = False,
    plan: ScheduleConfig | None = None,
    **options: Any,
) -> tuple[State, Metrics]:
    trainer = SoftTargets(SoftTargetsConfig(**options))
    toy = Toy() if plan is None else Toy(schedule=plan)
    return trainer.fit(
        toy.context(1, closing=closing), trainer.init(toy.context()) if state is None else state, knowledge
    )


def test_distil_then_private_ends_with_the_private_part() -> None:
    whole, _ = fit(order="distil_then_private")
    digested, _ = fit(closing=True)
    trained, _ = fit(digested, NOTHING)
    assert digest_of(whole) == digest_of(trained)


def test_private_then_distil_ends_with_the_distillation() -> None:
    whole, _ = fit(order="private_then_distil")
    trained, _ = fit(knowledge=NOTHING)
    digested, _ = fit(trained, closing=True)
    assert digest_of(whole) == digest_of(digested)


def test_the_three_orders_really_differ() -> None:
    assert len({digest_of(fit(order=order)[0]) for order in ORDERS}) == 3


def test_joint_uses_both_losses_in_each_step() -> None:
    plan = ScheduleConfig(private_steps=1, private_batch=24, distil_batch=6, momentum=0.0)  # one step on everything
    start = SoftTargets(SoftTargetsConfig()).init(Toy().context())

    def moved(**weights: float) -> torch.Tensor:
        state, _ = fit(plan=plan, order="joint", **weights)
        after: torch.Tensor = state["student"]["1.weight"] - start["student"]["1.weight"]
        return after

    private, distilled = moved(private_weight=1.0, kd_weight=0.0), moved(private_weight=0.0, kd_weight=1.0)
    assert private.abs().max() > 1e-4
    assert distilled.abs().max() > 1e-4
    torch.testing.assert_close(
        moved(private_weight=0.5, kd_weight=2.0), 0.5 * private + 2.0 * distilled, atol=1e-6, rtol=0
    )


def test_joint_without_private_weight_is_distillation_for_as_many_steps_as_the_private_schedule_has() -> None:
    joint, metrics = fit(order="joint", private_weight=0.0)
    digested, _ = fit(order="joint", closing=True)
    assert digest_of(joint["student"]) == digest_of(digested["student"])
    assert metrics.keys() == {"private_loss", "distil_loss"}


@pytest.mark.parametrize("order", ORDERS)
def test_without_private_weight_and_knowledge_nothing_moves(order: str) -> None:
    start = SoftTargets(SoftTargetsConfig()).init(Toy().context())
    state, _ = fit(knowledge=NOTHING, order=order, private_weight=0.0)
    assert digest_of(state["student"]) == digest_of(start["student"])


def test_aggregated_probabilities_are_the_target_as_they_are() -> None:
    (taught,) = TAUGHT.common
    soft = Knowledge(common=(rows(taught.ids, softmax(taught.values), kind="probs"),))
    assert digest_of(fit()[0]) == digest_of(fit(knowledge=soft)[0])
    assert digest_of(fit(temperature=2.0)[0]) != digest_of(fit(knowledge=soft, temperature=2.0)[0])
    softer = Knowledge(common=(rows(taught.ids, softmax(taught.values, temperature=2.0), kind="probs"),))
    assert digest_of(fit(temperature=2.0)[0]) == digest_of(fit(knowledge=softer, temperature=2.0)[0])


def test_a_student_that_agrees_with_its_teacher_stays_at_any_temperature() -> None:
    trainer, ctx = SoftTargets(SoftTargetsConfig()), Toy().context()
    start = trainer.init(ctx)
    agreed = Knowledge(common=trainer.predict(ctx, start, Toy.public, np.arange(16)))
    for tau in (1.0, 3.0):
        state, metrics = fit(start, agreed, closing=True, temperature=tau)
        assert metrics["distil_loss"] == pytest.approx(0.0, abs=1e-5)
        torch.testing.assert_close(state["student"], start["student"], atol=1e-6, rtol=0)


def test_only_the_main_rows_teach() -> None:
    second = rows(range(3), [[9.0, -9.0]] * 3, variant="ema")
    with_view = Knowledge(common=(second, *TAUGHT.common))
    assert digest_of(fit(knowledge=with_view)[0]) == digest_of(fit()[0])
    assert digest_of(fit(knowledge=Knowledge(common=(second,)))[0]) == digest_of(fit(knowledge=NOTHING)[0])


def test_distillation_reaches_the_teacher() -> None:
    teacher = np.eye(2, dtype=np.float32)[::-1][Toy.public.labels] * 8  # the classes swapped
    state, _ = fit(
        knowledge=Knowledge(common=(rows(range(16), teacher),)), closing=True, plan=ScheduleConfig(distil_epochs=20)
    )
    (said,) = predict(state)
    assert (said.values.argmax(1) == 1 - Toy.test.labels).all()


def predict(state: State, **options: Any) -> tuple[Rows, ...]:
    trainer = SoftTargets(SoftTargetsConfig(**options))
    return trainer.predict(Toy().context(), state, Toy.test, np.arange(len(Toy.test)))


def test_the_payload_is_logits_or_their_softmax() -> None:
    state, _ = fit()
    (logits,), (probs,) = predict(state), predict(state, payload="probs")
    assert (logits.kind, probs.kind) == ("logits", "probs")
    np.testing.assert_allclose(probs.values, softmax(logits.values))
    np.testing.assert_allclose(probs.values.sum(1), 1, rtol=1e-6)
    assert SoftTargets(SoftTargetsConfig(payload="probs")).kinds == {"probs"}
    assert SoftTargets(SoftTargetsConfig()).kinds == {"logits"}


def test_all_rows_are_shared_without_weights() -> None:
    trainer, said = SoftTargets(SoftTargetsConfig()), predict(fit()[0])
    share = trainer.share(Toy().context(4), fit()[0], said)
    assert (share.client_id, share.round_id, share.rows) == (3, 4, said)
    assert said[0].weight is None


def test_the_student_is_the_configured_model() -> None:
    state = SoftTargets(SoftTargetsConfig()).init(Toy().context())
    assert state["student"]["1.weight"].shape == (8, FEATURES)


@pytest.mark.parametrize(
    ("key", "value"),
    [("order", "both"), ("temperature", 0.0), ("private_weight", -1.0), ("kd_weight", -1.0), ("payload", "hard")],
)
def test_values_out_of_range_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        SoftTargetsConfig(**{key: value})
    assert caught.value.key == key

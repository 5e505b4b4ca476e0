import math
from typing import Any

import numpy as np
import pytest
import torch

from fedkd.errors import ConfigError
from fedkd.functional.aggregation import row_entropy, softmax
from fedkd.methods.base import State
from fedkd.methods.local_training import ORDERS
from fedkd.methods.schedule import ScheduleConfig
from fedkd.methods.soft_targets import SoftTargets, SoftTargetsConfig
from fedkd.rows import Knowledge, Rows
from fedkd.testing.toys import Toy, digest_of
from fedkd.testing.worlds import FEATURES
from fedkd.types import Metrics
from tests.contract.toys import rows

pytestmark = pytest.mark.usefixtures("one_torch_thread")

LN3 = math.log(3)
ONE_STEP = ScheduleConfig(distil_steps=1, distil_batch=6, lr=1.0, momentum=0.0)
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


@pytest.mark.parametrize("payload", ["logits", "probs", "hard"])
def test_predictions_are_logits_whatever_is_shared(payload: str) -> None:
    state, _ = fit()
    (logits,), (same,) = predict(state), predict(state, payload=payload)
    assert same.kind == "logits"
    np.testing.assert_array_equal(same.values, logits.values)
    assert SoftTargets(SoftTargetsConfig(payload=payload)).kinds == {payload}


def shared(payload: str) -> Rows:
    """What becomes of three rows of logits."""
    said = rows([0, 4, 9], [[LN3, 0.0], [-2.0, 5.0], [1.0, 1.0]])
    trainer = SoftTargets(SoftTargetsConfig(payload=payload))
    (made,) = trainer.share(Toy().context(4), {}, (said,)).rows
    np.testing.assert_array_equal(made.ids, said.ids)
    assert (made.kind, made.variant, made.weight) == (payload, "", None)
    return made


def test_logits_are_shared_as_they_are() -> None:
    np.testing.assert_array_equal(shared("logits").values, np.float32([[LN3, 0.0], [-2.0, 5.0], [1.0, 1.0]]))


def test_probabilities_are_the_softmax_of_the_logits() -> None:
    made = shared("probs")
    np.testing.assert_allclose(made.values[[0, 2]], [[0.75, 0.25], [0.5, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(made.values.sum(1), 1, rtol=1e-6)
    assert made.values.dtype == np.float32


def test_hard_labels_are_the_class_of_the_largest_logit() -> None:
    made = shared("hard")
    assert made.values.tolist() == [[0], [1], [0]]  # of equals, the first
    assert made.values.dtype == np.int32


def test_all_rows_are_shared_without_weights() -> None:
    trainer, said = SoftTargets(SoftTargetsConfig()), predict(fit()[0])
    share = trainer.share(Toy().context(4), fit()[0], said)
    assert (share.client_id, share.round_id, share.rows) == (3, 4, said)
    assert said[0].weight is None


def test_an_answer_to_hard_labels_teaches_as_probabilities_do() -> None:
    votes = Knowledge(common=(rows(range(3), [[0.75, 0.25], [0.0, 1.0], [0.5, 0.5]], kind="probs"),))
    assert digest_of(fit(knowledge=votes, payload="hard")[0]) == digest_of(fit(knowledge=votes, payload="probs")[0])


def one_step(**options: Any) -> tuple[torch.Tensor, float]:
    """How the last bias moves in one plain SGD step of size 1 on all of TAUGHT, and the loss before it."""
    start = SoftTargets(SoftTargetsConfig()).init(Toy().context())
    state, metrics = fit(start, closing=True, plan=ONE_STEP, **options)
    moved: torch.Tensor = state["student"]["3.bias"] - start["student"]["3.bias"]
    return moved, metrics["distil_loss"]


def differences() -> np.ndarray:
    """Student logits less teacher logits before any training."""
    trainer, ctx = SoftTargets(SoftTargetsConfig()), Toy().context()
    (said,) = trainer.predict(ctx, trainer.init(ctx), Toy.public, np.arange(6))
    return said.values - TAUGHT.common[0].values


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_soft_cross_entropy_moves_the_student_as_kl_does(tau: float) -> None:
    (kl_way, kl), (ce_way, ce) = one_step(temperature=tau), one_step(temperature=tau, loss="soft_ce")
    torch.testing.assert_close(ce_way, kl_way, atol=1e-6, rtol=1e-5)
    entropy = row_entropy(softmax(TAUGHT.common[0].values, temperature=tau)).mean()
    assert ce - kl == pytest.approx(tau**2 * entropy, rel=1e-4)


def test_squared_difference_of_logits_by_hand() -> None:
    moved, loss = one_step(loss="mse")
    assert loss == pytest.approx((differences() ** 2).mean(), rel=1e-5)
    expected = -differences().mean(0)  # a row's gradient is 2 (z - t) / c with two classes
    np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-6)


def test_absolute_difference_of_logits_by_hand() -> None:
    moved, loss = one_step(loss="mae")
    assert loss == pytest.approx(np.abs(differences()).mean(), rel=1e-5)
    np.testing.assert_allclose(moved, -np.sign(differences()).mean(0) / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", ["mse", "mae"])
def test_losses_on_logits_know_no_temperature(loss: str) -> None:
    assert digest_of(fit(loss=loss)[0]) == digest_of(fit(loss=loss, temperature=3.0)[0])


@pytest.mark.parametrize("loss", ["mse", "mae"])
@pytest.mark.parametrize("payload", ["probs", "hard"])
def test_losses_on_logits_need_logits(loss: str, payload: str) -> None:
    with pytest.raises(ConfigError, match=r"set method.payload = 'logits' or method.loss = 'kl'") as caught:
        SoftTargetsConfig(loss=loss, payload=payload)
    assert caught.value.key == "loss"


def test_joint_training_waits_for_the_first_aggregate() -> None:
    trainer, ctx = SoftTargets(SoftTargetsConfig(order="joint")), Toy().context()
    start = trainer.init(ctx)
    state, metrics = trainer.fit(ctx, start, NOTHING)
    assert digest_of(state) == digest_of(start)
    assert metrics == {}


def test_the_student_is_the_configured_model() -> None:
    state = SoftTargets(SoftTargetsConfig()).init(Toy().context())
    assert state["student"]["1.weight"].shape == (8, FEATURES)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("order", "both"),
        ("temperature", 0.0),
        ("private_weight", -1.0),
        ("kd_weight", -1.0),
        ("loss", "huber"),
        ("payload", "one_hot"),
    ],
)
def test_values_out_of_range_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        SoftTargetsConfig(**{key: value})
    assert caught.value.key == key


@pytest.mark.parametrize("loss", ["kl", "soft_ce", "mse", "mae"])
def test_a_class_that_nobody_owns_teaches_nothing(loss: str) -> None:
    """Whatever stands in its column: of two classes the other one is left, which the softmax makes certain."""
    values = np.array([[4.0 * i - 9, 1.0] for i in range(6)])
    owned = np.ones((6, 2), np.float32)
    owned[:3, 1] = 0
    meaningless = np.where(owned == 0, 77.0, values)
    states = [
        fit(knowledge=Knowledge(common=(rows(range(6), told, weight=owned),)), closing=True, loss=loss)[0]
        for told in (values, meaningless)
    ]
    assert digest_of(states[0]) == digest_of(states[1])
    whole, _ = fit(knowledge=Knowledge(common=(rows(range(6), values),)), closing=True, loss=loss)
    assert digest_of(states[0]) != digest_of(whole)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_log_probabilities_are_softened_as_logits_are(temperature: float) -> None:
    (logits,) = TAUGHT.common
    normal = Rows(space="proxy", kind="log_probs", ids=logits.ids, values=np.log(softmax(logits.values)))
    first, _ = fit(temperature=temperature)
    second, _ = fit(knowledge=Knowledge(common=(normal,)), temperature=temperature)
    for name, weights in first["student"].items():
        torch.testing.assert_close(second["student"][name], weights, rtol=1e-3, atol=1e-4)

import pytest

from fedkd.methods.base import LocalTrainer, ModelRole


@pytest.mark.parametrize(
    ("role", "needs"),
    [
        (ModelRole(name="student"), False),
        (ModelRole(name="teacher", frozen=True, group="teacher"), True),
        (ModelRole(name="origin", frozen=True, source="copy_of_student"), False),
        (ModelRole(name="teacher", source="trained", group="teacher"), False),
    ],
)
def test_only_what_is_frozen_and_from_outside_needs_weights(role: ModelRole, needs: bool) -> None:
    assert role.needs_weights == needs


def test_a_trainer_that_declares_nothing_has_a_student() -> None:
    assert LocalTrainer.models == (ModelRole(name="student"),)

import pytest

from fedkd.errors import ConfigError
from fedkd.methods.mst_distill.config import MSTDistillConfig


def test_the_defaults_are_the_papers() -> None:
    config = MSTDistillConfig()
    assert (config.temperature, config.k, config.heads, config.hidden_factor) == (4.0, 1, 3, 2)
    assert (config.cotrain_epochs, config.mask_epochs, config.cotrain_lr, config.mask_lr) == (1, 1, 1e-4, 1e-4)
    assert (config.w_task, config.w_kl, config.w_lb, config.lb_mode) == (1.0, 1.0, 1.0, "kl")
    assert (config.kl_decay, config.kl_every, config.lb_decay, config.lb_every) == (0.5, 30, 0.9, 10)
    assert (config.gate_grad, config.hooks) == ("none", "single")
    assert config.num_teachers == 4
    assert config.masks


def test_layers_are_named_with_commas() -> None:
    config = MSTDistillConfig(teacher_layers="fusion, fc1,body.0", auxiliary_layers="conv3", k=4)
    assert config.layers_of_teacher == ("fusion", "fc1", "body.0")
    assert config.layers_of_auxiliary == ("conv3",)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("temperature", 0.0, "greater than 0"),
        ("k", 0, "at least 1"),
        ("k", 5, "4 teachers"),
        ("heads", 0, "at least 1"),
        ("kl_decay", 1.5, "at most 1"),
        ("w_lb", -1.0, "at least 0"),
        ("hooks", "cumulativ", "did you mean 'cumulative'"),
        ("gate_grad", "q", "none, weighted"),
        ("lb_mode", "KL", "kl"),
        ("routing", "top", "did you mean 'top_k'"),
        ("upload", "teacher", "multimodal, student"),
        ("order", "joined", "did you mean 'joint'"),
        ("teacher_options", "{", "expected a JSON object"),
        ("teacher_layers", "fc1,,fc2", "separated by commas"),
        ("auxiliary_layers", "", "separated by commas"),
        ("auxiliary_layers", "fc1,fc1", "different names"),
    ],
)
def test_wrong_values_are_refused_by_name(key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        MSTDistillConfig(**{key: value})  # type: ignore[arg-type]
    assert caught.value.key == key


def test_drawn_teachers_are_not_weighted_by_the_gate() -> None:
    with pytest.raises(ConfigError, match=r"method\.routing is 'random'.*gate_grad = 'none'") as caught:
        MSTDistillConfig(routing="random", gate_grad="weighted")
    assert caught.value.key == "gate_grad"
    assert MSTDistillConfig(routing="random").gate_grad == "none"

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedkd.errors import ConfigError
from fedkd.exchange.dsfl import DsFl, DsFlConfig
from fedkd.metric_names import SERVER_ACC, TEACHER_ENTROPY
from fedkd.models.config import ModelConfig
from fedkd.models.spec import ModelSpec
from fedkd.rows import Knowledge, Rows, Share
from fedkd.testing.toys import Toy, digest_of, stored
from fedkd.testing.worlds import FEATURES, normed
from tests.contract.toys import rows, server_context


def speak(*spoken: Rows) -> list[Share]:
    return [Share(client_id=i, round_id=0, rows=(own,)) for i, own in enumerate(spoken)]


def run(shares: list[Share], *, state: Any = None, **options: Any) -> tuple[Any, Knowledge, dict[str, float]]:
    numbers: dict[str, float] = {}
    scheme = DsFl(DsFlConfig(**options))
    ctx = server_context(emit=numbers.update)
    state, knowledge = scheme.step(ctx, scheme.init(ctx) if state is None else state, shares)
    return state, knowledge, numbers


TWO = speak(rows([0, 2], [[0.8, 0.2], [0.5, 0.5]], kind="probs"), rows([2], [[0.7, 0.3]], kind="probs"))
LABELLED = speak(rows(range(16), np.eye(2)[Toy.public.labels], kind="probs"))


def test_the_mean_is_sharpened_by_hand() -> None:
    _, knowledge, numbers = run(TWO)
    (taught,) = knowledge.common
    expected = [1 / (1 + math.exp(-6)), 1 / (1 + math.exp(-2))]  # of (.8, .2) and (.6, .4) at a tenth
    np.testing.assert_allclose(taught.values, [[p, 1 - p] for p in expected], rtol=1e-5)
    assert taught.ids.tolist() == [0, 2]
    assert taught.columns["voters"].tolist() == [1, 2]
    entropy = [-p * math.log(p) - (1 - p) * math.log(1 - p) for p in expected]
    assert numbers[TEACHER_ENTROPY] == pytest.approx(np.mean(entropy), rel=1e-4)


def test_simple_averaging_is_the_ablation() -> None:
    _, knowledge, _ = run(TWO, aggregation="sa")
    np.testing.assert_allclose(knowledge.common[0].values, [[0.8, 0.2], [0.6, 0.4]], rtol=1e-6)


def test_one_step_of_the_server_model_by_hand() -> None:
    # Zero weights answer (.5, .5); against (.8, .2) the gradient of the bias is (-.3, .3), and x times that.
    state, _, _ = run(speak(rows([3], [[0.8, 0.2]], kind="probs")), aggregation="sa", lr=0.5, epochs=1)
    step = torch.tensor([0.15, -0.15])
    torch.testing.assert_close(state["model"]["bias"], step)
    torch.testing.assert_close(state["model"]["weight"], step[:, None] * torch.from_numpy(Toy.public.x[3])[None])


def test_the_server_model_learns_what_the_clients_know() -> None:
    state, _, numbers = run(LABELLED, batch=4)
    assert numbers[SERVER_ACC] == 1.0
    assert state["model"]["weight"].shape == (2, FEATURES)


def test_state_goes_in_and_comes_out() -> None:
    once, _, _ = run(LABELLED)
    before = digest_of(once)
    twice, _, _ = run(LABELLED, state=once)
    assert digest_of(once) == before  # what went in is not touched
    assert digest_of(twice) != before
    assert digest_of(run(LABELLED, state=stored(once))[0]) == digest_of(twice)


def test_the_same_input_gives_the_same_output() -> None:
    assert digest_of(run(LABELLED)[0]) == digest_of(run(LABELLED)[0])


def test_training_does_not_move_the_global_random_state() -> None:
    before = torch.random.get_rng_state()
    run(LABELLED)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_silence_leaves_everything_as_it_was() -> None:
    state = {"model": {"weight": torch.ones(2, FEATURES), "bias": torch.zeros(2)}}
    after, knowledge, numbers = run([Share(client_id=0, round_id=0)], state=state)
    assert after is state
    assert knowledge.is_empty
    assert numbers == {}


def test_a_second_opinion_is_not_mixed_in() -> None:
    extra = rows([0], [[0.1, 0.9]], kind="probs", variant="ema")
    _, knowledge, _ = run([*TWO, Share(client_id=2, round_id=0, rows=(extra,))])
    np.testing.assert_array_equal(knowledge.common[0].values, run(TWO)[1].common[0].values)


def test_a_last_batch_of_one_row_is_left_out() -> None:
    """Batch norm cannot train on it, and a server that stumbles ends the run."""

    def build() -> nn.Module:
        return normed(ModelConfig(hidden=4), ModelSpec(input_shape=(FEATURES,), num_outputs=2))

    thirteen = speak(rows(range(13), np.eye(2)[Toy.public.labels[:13]], kind="probs"))
    scheme, ctx = DsFl(DsFlConfig(batch=6, epochs=3)), server_context(build_model=build)
    state, _ = scheme.step(ctx, scheme.init(ctx), thirteen)
    assert state["model"]["1.num_batches_tracked"].item() == 6  # two batches a pass


def test_no_epoch_leaves_the_server_model_alone() -> None:
    state, knowledge, _ = run(LABELLED, epochs=0)
    assert not state["model"]["weight"].any()
    assert not knowledge.is_empty


@pytest.mark.parametrize(
    "wrong", [{"aggregation": "mean"}, {"temperature": 0.0}, {"lr": 0.0}, {"epochs": -1}, {"batch": 0}]
)
def test_values_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        DsFlConfig(**wrong)
    assert caught.value.key == next(iter(wrong))

"""What filters compare where samples are sequences of tokens, and what of a pair may be shown."""

import numpy as np

from fedkd.data.base import Samples
from fedkd.tasks.diffusion import Diffusion
from fedkd.tasks.image_text import ImageText
from fedkd.tasks.language import Language
from fedkd.tasks.tokens import WIDEST, token_shares


def test_shares_of_tokens_by_hand() -> None:
    tokens = np.array([[1, 1, 2, 0], [3, 0, 0, 0], [0, 0, 0, 0]])
    found = token_shares(tokens, tokens != 0, num_words=4)
    np.testing.assert_allclose(found, [[0, 2 / 3, 1 / 3, 0], [0, 0, 0, 1], [0, 0, 0, 0]], rtol=1e-6)
    assert found.dtype == np.float32


def test_large_vocabularies_share_columns() -> None:
    tokens = np.array([[5, WIDEST + 5, 7, 7]])
    found = token_shares(tokens, np.ones((1, 4), bool), num_words=50_000)
    assert found.shape == (1, WIDEST)
    assert found[0, [5, 7]].tolist() == [0.5, 0.5]


def test_filters_compare_words_not_positions_or_noise() -> None:
    tokens = np.array([[4, 9, 9], [9, 4, 9]], np.int32)
    words = Language(num_outputs=10, length=3, pad=9).filter_inputs(Samples(tokens))
    np.testing.assert_array_equal(words.x[0], words.x[1])
    assert words.x[0, 4] == 1.0
    latents = Samples(np.random.default_rng(0).normal(size=(2, 1, 2, 2)).astype(np.float32), more={"prompt": tokens})
    prompts = Diffusion(num_outputs=4).filter_inputs(latents)
    np.testing.assert_array_equal(prompts.x[0], prompts.x[1])
    bare = Samples(latents.x)
    assert Diffusion(num_outputs=4).filter_inputs(bare) is bare


def test_a_contributed_pair_shows_its_first_modality_alone_unless_told() -> None:
    pair = Samples(np.zeros((2, 3), np.float32), np.zeros(2, np.int64), more={"b": np.ones((2, 1), np.float32)})
    shown = ImageText(num_outputs=2).public(pair)
    assert (shown.y, dict(shown.more)) == (None, {})
    both = ImageText(num_outputs=2, paired_proxy=True).public(pair)
    assert both.y is None
    assert set(both.more) == {"b"}

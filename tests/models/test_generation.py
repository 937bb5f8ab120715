"""How tokens are drawn, what ends a text, and what is refused; transformers' own tokens are in tests/parity."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.models.generation import Sampling, chosen, generate
from jaxfer.registry import MODELS

TINY = dict(vocab=23, width=12, layers=2, heads=3, mlp_width=20, positions=12, max_length=9)
PROMPTS = {
    "input_ids": jnp.asarray([[3, 4, 5], [6, 0, 0]], jnp.int32),
    "attention_mask": jnp.asarray([[1, 1, 1], [1, 0, 0]], jnp.int32),
}


def tiny(head="next"):
    port = MODELS.make("gpt2", outputs=2, head=head, **TINY)
    return port, port.init(jax.random.key(0), {**PROMPTS, "token_type_ids": PROMPTS["input_ids"]})[0]


def drawn(count=4000, **sampling):
    scores = jnp.log(jnp.asarray([[0.5, 0.3, 0.15, 0.05]]))
    tokens = chosen(jnp.repeat(scores, count, 0), jax.random.key(1), Sampling(**sampling))
    return np.bincount(np.asarray(tokens), minlength=4) / count


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({}, [1, 0, 0, 0]),
        (dict(temperature=1.0), [0.5, 0.3, 0.15, 0.05]),
        (dict(temperature=0.5), np.square([0.5, 0.3, 0.15, 0.05]) / 0.365),
        (dict(temperature=1.0, top_k=2), [0.625, 0.375, 0, 0]),
        (dict(temperature=1.0, top_p=0.7), [0.625, 0.375, 0, 0]),
        (dict(temperature=1.0, top_p=0.1), [1, 0, 0, 0]),
    ],
)
def test_shares_of_drawn_tokens(sampling, expected):
    np.testing.assert_allclose(drawn(**sampling), expected, atol=0.03)


def test_a_key_gives_the_same_tokens_and_padding_follows_the_end():
    port, params = tiny()
    warm = Sampling(temperature=1.0)
    first, again, other = (
        np.asarray(generate(port, params, PROMPTS, tokens=8, key=jax.random.key(seed), sampling=warm))
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    end = int(first[0, 2])
    ended = np.asarray(generate(port, params, PROMPTS, tokens=8, key=jax.random.key(0), sampling=warm, end=end, pad=22))
    place = list(first[0]).index(end)
    np.testing.assert_array_equal(ended[0, : place + 1], first[0, : place + 1])
    assert (ended[0, place + 1 :] == 22).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(tokens=10), "expected 1 to 9 tokens after prompts of 3, found 10: the model has 12 positions"),
        (dict(sampling=Sampling(temperature=1.0)), "temperature=1.0 draws tokens; give a key"),
        (dict(prompts={**PROMPTS, "attention_mask": jnp.asarray([[0, 1, 1], [1, 0, 0]])}), "padded on the left"),
    ],
)
def test_what_is_refused(change, message):
    port, params = tiny()
    with pytest.raises(InputError, match=message):
        generate(port, params, **{"prompts": PROMPTS, "tokens": 2, **change})


def test_another_head_is_refused():
    with pytest.raises(InputError, match="needs a model with the head 'next', found 'pooled'"):
        generate(*tiny("pooled"), PROMPTS, tokens=2)


@pytest.mark.parametrize("bad", [dict(temperature=-1.0), dict(top_k=-1), dict(top_p=0.0)])
def test_bad_sampling(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        Sampling(**bad)

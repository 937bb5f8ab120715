"""Forms of the transformer block by hand; the families compare the rest with PyTorch's models."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.models.attention import attention
from jaxfer.models.transformer import (
    Attention,
    Block,
    Mlp,
    Relative,
    Rotary,
    Spec,
    _buckets,
    slopes,
    turned,
    turns,
)

SPEC = Spec(heads=2, mlp_width=6)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def run(module, x, **call):
    params = module.init(jax.random.key(0), x, **call)
    return module.apply(params, x, **call), params["params"]


def reference(query, key, value, scores):
    """Attention in float64, head by head; `scores` changes the scores [query, key] of a head."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    found = np.zeros_like(query)
    for b in range(query.shape[0]):
        for h in range(query.shape[2]):
            s = scores(query[b, :, h] @ key[b, :, h].T / query.shape[-1] ** 0.5, h)
            weights = np.exp(s - s.max(-1, keepdims=True))
            found[b, :, h] = weights / weights.sum(-1, keepdims=True) @ value[b, :, h]
    return found


def places(n):
    return np.arange(n)[None, :] - np.arange(n)[:, None]  # of the key from the query


@pytest.mark.parametrize(
    ("settings", "scores"),
    [
        (dict(causal=True), lambda s, h: np.where(places(5) <= 0, s, -np.inf)),
        (dict(window=1), lambda s, h: np.where(abs(places(5)) <= 1, s, -np.inf)),
        (dict(causal=True, window=2), lambda s, h: np.where((places(5) <= 0) & (places(5) >= -2), s, -np.inf)),
        (dict(scale=0.25), lambda s, h: s * 4**0.5 * 0.25),
    ],
)
def test_what_a_token_sees(settings, scores):
    query, key, value = (normal(2, 5, 3, 4, seed=i) for i in range(3))
    expected = reference(query, key, value, scores)
    np.testing.assert_allclose(attention(query, key, value, **settings), expected, atol=1e-6)


def test_a_bias_is_added_to_the_scores():
    query, key, value, bias = *(normal(2, 5, 3, 4, seed=i) for i in range(3)), normal(1, 3, 5, 5, seed=3)
    expected = reference(query, key, value, lambda s, h: s + np.asarray(bias[0, h], np.float64))
    np.testing.assert_allclose(attention(query, key, value, bias=bias), expected, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, dict(causal=True)])
def test_groups_of_queries_share_a_key(settings):
    query, key, value = normal(2, 5, 6, 4), normal(2, 5, 2, 4, seed=1), normal(2, 5, 2, 4, seed=2)
    each = [jnp.repeat(x, 3, axis=2) for x in (key, value)]  # queries 0 to 2 read key 0
    np.testing.assert_array_equal(attention(query, key, value, **settings), attention(query, *each, **settings))


def test_the_last_query_is_at_the_last_key():
    query, key, value = (normal(1, 5, 1, 4, seed=i) for i in range(3))
    whole = attention(query, key, value, causal=True)
    np.testing.assert_allclose(attention(query[:, 4:], key, value, causal=True), whole[:, 4:], atol=1e-6)


def test_slopes_are_the_papers():
    assert slopes(8) == [2**-i for i in range(1, 9)]
    assert slopes(12) == [2**-i for i in range(1, 9)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]


def test_alibi_lowers_scores_with_distance():
    spec, x = dataclasses.replace(SPEC, alibi=True, causal=True), normal(1, 4, 6)
    module = Attention(spec)
    found, params = run(module, x)
    query, key, value = (
        np.einsum("btw,whd->bthd", x, params[name]["kernel"]) + params[name]["bias"]
        for name in ("query", "key", "value")
    )
    far = np.where(places(4) <= 0, places(4), -np.inf)
    mixed = reference(query, key, value, lambda s, h: s + far * [2**-4, 2**-8][h])
    out = np.einsum("bthd,hdw->btw", mixed, params["out"]["kernel"]) + params["out"]["bias"]
    np.testing.assert_allclose(found, out, atol=1e-5)


def test_rotary_scores_depend_on_the_distance_alone():
    cos, sin = turns(6, 8, Rotary(theta=100.0))
    query, key = normal(1, 1, 1, 8), normal(1, 1, 1, 8, seed=1)
    rows = [jnp.broadcast_to(x, (1, 6, 1, 8)) for x in (query, key)]
    q, k = (np.asarray(turned(x, cos, sin))[0, :, 0] for x in rows)
    scores = q @ k.T
    np.testing.assert_allclose(scores[1:, 1:], scores[:-1, :-1], atol=1e-5)
    # Channel 1 turns by 100 ** (-2 / 8) radians a place, together with channel 5.
    angle = 3 * 100.0**-0.25
    expected = query[0, 0, 0, 1] * np.cos(angle) - query[0, 0, 0, 5] * np.sin(angle)
    np.testing.assert_allclose(q[3, 1], expected, atol=1e-5)


def test_a_share_of_a_head_is_turned():
    cos, sin = turns(3, 8, Rotary(share=0.5))
    x = normal(1, 3, 1, 8)
    found = turned(x, cos, sin)
    assert cos.shape == (3, 4)
    np.testing.assert_array_equal(found[..., 4:], x[..., 4:])
    assert (np.asarray(found)[0, 1:, 0, :4] != np.asarray(x)[0, 1:, 0, :4]).all()


def test_buckets_of_distances():
    """T5's: of 32 both ways, 8 exact ones, then by logarithm up to 128; keys after the query have the second half."""
    distances = np.array([0, -1, -7, -8, -15, -16, -127, -128, -1000, 1, 7, 8, 200])
    expected = [0, 1, 7, 8, 9, 10, 15, 15, 15, 17, 23, 24, 31]
    np.testing.assert_array_equal(_buckets(1001, Relative())[1000 + distances], expected)
    backward = _buckets(501, Relative(both=False))[500 + np.array([5, 0, -3, -16, -500])]
    np.testing.assert_array_equal(backward, [0, 0, 3, 16, 31])


def test_a_gated_mlp():
    x = normal(2, 3, 4)
    found, params = run(Mlp(dataclasses.replace(SPEC, gated=True, activation="silu", bias=False)), x)
    first, gate = (np.asarray(x @ params[name]["kernel"], np.float64) for name in ("fc1", "gate"))
    expected = (first / (1 + np.exp(-first)) * gate) @ np.asarray(params["fc2"]["kernel"], np.float64)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert set(params["fc1"]) == {"kernel"}


def test_leaves_of_a_block():
    x = normal(1, 3, 8)
    spec = Spec(
        heads=4,
        key_heads=2,
        mlp_width=6,
        norm="rms",
        qk_norm=True,
        gated=True,
        bias=False,
        qkv_bias=(True, False, True),
        layer_scale=True,
        layer_scale_init=0.5,
    )
    _, params = run(Block(spec), x, train=False)
    assert set(params) == {"norm_1", "attn", "scale_1", "norm_2", "mlp", "scale_2"}
    assert set(params["attn"]) == {"query", "key", "value", "query_norm", "key_norm", "out"}
    assert params["attn"]["key"]["kernel"].shape == (8, 2, 2) and set(params["attn"]["key"]) == {"kernel"}
    assert set(params["norm_1"]) == {"scale"} and params["attn"]["key_norm"]["scale"].shape == (2,)
    np.testing.assert_array_equal(params["scale_1"], np.full(8, 0.5))
    _, params = run(Block(dataclasses.replace(spec, norm_first=False)), x, train=False)
    assert "norm_1" not in params


def test_rms_norm_divides_by_the_root_mean_square():
    x = normal(1, 2, 4)
    spec = dataclasses.replace(SPEC, norm="rms", epsilon=1e-3)
    module = Block(spec)
    params = module.init(jax.random.key(0), x, train=False)
    _, found = module.apply(params, x, train=False, capture_intermediates=True, mutable=["intermediates"])
    (normed,) = found["intermediates"]["norm_1"]["__call__"]
    expected = np.asarray(x, np.float64) / np.sqrt((np.asarray(x, np.float64) ** 2).mean(-1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(normed, expected, atol=1e-6)

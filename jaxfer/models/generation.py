"""Continues texts with a causal decoder: a cache of keys and values, static shapes, one compiled program.

The cache is an interceptor of `DotProductAttention`: it keeps the keys and values of each block, turned already, at
their tokens' places. Prompts are padded on the right; what is generated takes the padding's places, and a token sees no
place after its own, so that padding is never seen.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.models.attention import DotProductAttention
from jaxfer.models.heads import NEXT
from jaxfer.models.port import Port

Cache = dict[str, tuple[jax.Array, jax.Array]]  # {path of the attention: (keys, values)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is chosen from the scores.

    Attributes:
      temperature: by which scores are divided; 0: the token of the largest score (greedy).
      top_k: of how many likeliest tokens one is drawn; 0: of all.
      top_p: of the likeliest tokens, of this probability together (Holtzman et al., 2020, arXiv:1904.09751); 1: all.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise InputError(f"temperature must be at least 0, found {self.temperature}; 0 is greedy")
        if not self.top_k >= 0:
            raise InputError(f"top_k must be at least 0, found {self.top_k}; 0 keeps all tokens")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1, found {self.top_p}; 1 keeps all tokens")


GREEDY = Sampling()


def generate(
    port: Port,
    params: Any,
    prompts: Mapping[str, jax.Array],
    *,
    tokens: int,
    key: jax.Array | None = None,
    sampling: Sampling = GREEDY,
    end: int = -1,
    pad: int = 0,
) -> jax.Array:
    """The tokens that follow each prompt, int32 [batch, tokens]; after `end` comes `pad`.

    Args:
      port: a causal decoder with the head `next`.
      params: its parameters.
      prompts: `input_ids` and `attention_mask`, int32 [batch, length], padded on the right.
      tokens: how many to generate.
      key: typed PRNG key; needed unless greedy.
      sampling: how a token is chosen.
      end: id of the token that ends a text; -1: none does.
      pad: id of what follows it.

    Raises:
      InputError: another head, an empty prompt, more tokens than the model has positions, or no key to draw with.
    """
    ids, mask = (jnp.asarray(prompts[name]) for name in ("input_ids", "attention_mask"))
    if port.module.head != NEXT:
        raise InputError(f"generation needs a model with the head {NEXT!r}, found {port.module.head!r}")
    if tokens < 1 or ids.shape[1] + tokens > port.options.positions:
        raise InputError(
            f"expected 1 to {port.options.positions - ids.shape[1]} tokens after prompts of {ids.shape[1]}, found "
            f"{tokens}: the model has {port.options.positions} positions"
        )
    if not bool((mask[:, 0] > 0).all()):
        raise InputError("a prompt is empty or padded on the left; give at least one token, and pad on the right")
    if key is None and sampling.temperature:
        raise InputError(f"temperature={sampling.temperature} draws tokens; give a key")
    key = jax.random.key(0) if key is None else key
    return _generated(port, tokens, sampling, params, ids, mask, key, jnp.int32(end), jnp.int32(pad))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _generated(port, tokens, sampling, params, ids, mask, key, end, pad):
    batch, length = ids.shape
    places = jnp.broadcast_to(jnp.arange(length), ids.shape)
    scores, cache = cached(port, params, {}, ids, places, length + tokens)
    lengths = (mask > 0).sum(1)
    first = jnp.take_along_axis(scores, lengths[:, None, None] - 1, 1)[:, 0]

    def step(carry, i):
        cache, scores, over = carry
        token = jnp.where(over, pad, chosen(scores, jax.random.fold_in(key, i), sampling))
        scores, cache = cached(port, params, cache, token[:, None], (lengths + i)[:, None], length + tokens)
        return (cache, scores[:, 0], over | (token == end)), token

    start = (cache, first, jnp.zeros(batch, bool))
    _, found = jax.lax.scan(step, start, jnp.arange(tokens))
    return found.T


def cached(
    port: Port, params: Any, cache: Cache, ids: jax.Array, places: jax.Array, longest: int
) -> tuple[jax.Array, Cache]:
    """(scores [batch, tokens, vocab], the cache with these tokens' keys and values).

    Args:
      port: as in `generate`.
      params: likewise.
      cache: of the tokens before; {} where there are none.
      ids: int32 [batch, tokens].
      places: of these tokens in their texts, likewise.
      longest: tokens that the cache has room for.
    """
    after: Cache = {}
    row = jnp.arange(len(ids))[:, None]

    def intercept(next_fun, args, kwargs, context):
        if not isinstance(context.module, DotProductAttention) or context.method_name != "__call__":
            return next_fun(*args, **kwargs)
        path = "/".join(context.module.path)
        query, *new = args[:3]
        blank = (jnp.zeros((len(ids), longest, *x.shape[2:]), x.dtype) for x in new)
        old = cache[path] if path in cache else tuple(blank)
        after[path] = keys, values = tuple(x.at[row, places].set(y) for x, y in zip(old, new, strict=True))
        back = places[:, :, None] - jnp.arange(longest)  # of each key from each query
        window = kwargs.get("window") or longest
        seen = (back >= 0) & (back <= window)
        bias = jnp.where(seen, 0.0, jnp.finfo(jnp.float32).min)[:, None]
        return next_fun(query, keys, values, bias=bias, scale=kwargs.get("scale", 0.0), prefix=kwargs.get("prefix"))

    with nn.intercept_methods(intercept):
        side = {"attention_mask": jnp.ones_like(ids), "places": places}
        scores = port.module.apply({"params": params}, ids, **side)
    return scores, after


def chosen(scores: jax.Array, key: jax.Array, sampling: Sampling) -> jax.Array:
    """int32 [batch]: a token for each row of scores [batch, vocab]."""
    scores = scores.astype(jnp.float32)
    if not sampling.temperature:
        return scores.argmax(-1).astype(jnp.int32)
    scores = scores / sampling.temperature
    lowest = jnp.finfo(jnp.float32).min
    if 0 < sampling.top_k < scores.shape[-1]:
        least = jax.lax.top_k(scores, sampling.top_k)[0][:, -1:]
        scores = jnp.where(scores < least, lowest, scores)
    if sampling.top_p < 1:
        order = jnp.argsort(-scores, -1)
        sorted_ = jnp.take_along_axis(jax.nn.softmax(scores), order, -1)
        before = jnp.cumsum(sorted_, -1) - sorted_  # the likeliest token is always kept
        kept = jnp.zeros(scores.shape, bool).at[jnp.arange(len(scores))[:, None], order].set(before < sampling.top_p)
        scores = jnp.where(kept, scores, lowest)
    return jax.random.categorical(key, scores).astype(jnp.int32)

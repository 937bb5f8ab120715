"""Writes texts with an encoder-decoder: the encoder runs once, the decoder a token at a time, in one compiled program.

The cache is an interceptor, as in `jaxfer.models.generation`: of self-attention it keeps keys and values at their
tokens' places, of attention to the memory those of the memory, which are computed once.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.models.attention import DotProductAttention
from jaxfer.models.generation import GREEDY, Sampling, chosen
from jaxfer.models.heads import SEQ2SEQ
from jaxfer.models.layers import Dense
from jaxfer.models.passes import Interceptor
from jaxfer.models.port import Port
from jaxfer.models.transformer import relative_bias

BEGIN, END = "decoder_stem", "encoder_norm"  # the first unit of the decoder, the last one of the encoder


def write(
    port: Port,
    params: Any,
    batch: Mapping[str, jax.Array],
    *,
    tokens: int = 0,
    key: jax.Array | None = None,
    sampling: Sampling = GREEDY,
) -> jax.Array:
    """The tokens of a text for each example, int32 [batch, tokens], without the start and the prefix; after the token
    that ends it comes padding.

    Args:
      port: a model with the head `seq2seq`; its options say how a text begins and ends.
      params: its parameters.
      batch: the encoder's input fields.
      tokens: how many to write at most; 0: as many as targets have.
      key: typed PRNG key; needed unless greedy.
      sampling: how a token is chosen.

    Raises:
      InputError: another head, more tokens than the decoder has positions, or no key to draw with.
    """
    if port.module.head != SEQ2SEQ:
        raise InputError(f"writing needs a model with the head {SEQ2SEQ!r}, found {port.module.head!r}")
    most = getattr(port.options, "target_positions", None)
    begin = 1 + len(port.options.prefix)
    if tokens < 0 or most is not None and begin + tokens > most:
        raise InputError(f"expected at most {most - begin} tokens after a start of {begin}, found {tokens}")
    if key is None and sampling.temperature:
        raise InputError(f"temperature={sampling.temperature} draws tokens; give a key")
    key = jax.random.key(0) if key is None else key
    fields = {name: jnp.asarray(batch[name]) for name in port.encoding.example(1)}
    return _written(port, tokens, sampling, params, fields, key)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _written(port, tokens, sampling, params, batch, key):
    return written(port, params, {}, batch, tokens=tokens, sampling=sampling, key=key)


def written(
    port: Port,
    params: Any,
    model_state: Any,
    batch: Mapping[str, jax.Array],
    *,
    key: jax.Array,
    tokens: int = 0,
    sampling: Sampling = GREEDY,
    intercept: Interceptor | None = None,
) -> jax.Array:
    """`write` within a compiled program.

    Args:
      port: as in `write`.
      params: likewise.
      model_state: running statistics.
      batch: likewise.
      key: typed PRNG key.
      tokens: as in `write`.
      sampling: likewise.
      intercept: a method's activation-space change.
    """
    options = port.options
    begin = (options.start, *options.prefix)
    tokens = tokens or options.target_length - len(options.prefix)
    longest = len(begin) + tokens
    first, *names = port.encoding.example(1)
    side = {name: batch[name] for name in names}
    run = functools.partial(_run, port, params, model_state, side, intercept)
    memory = run(batch[first], {}, end=END)
    count = len(memory)
    ids = jnp.broadcast_to(jnp.asarray(begin, jnp.int32), (count, len(begin)))
    places = jnp.broadcast_to(jnp.arange(len(begin)), ids.shape)
    decode = functools.partial(_decoded, run, port, params, memory, longest)
    scores, cache = decode({}, ids, places)

    never = _barred(port.outputs, options.suppress)
    at_first = never + _barred(port.outputs, options.begin_suppress)

    def step(carry):
        i, cache, scores, over, found = carry
        allowed = scores.astype(jnp.float32) + jnp.where(i == 0, at_first, never)
        token = jnp.where(over, options.pad, chosen(allowed, jax.random.fold_in(key, i), sampling)).astype(jnp.int32)
        scores, cache = decode(cache, token[:, None], jnp.full((count, 1), len(begin)) + i)
        return i + 1, cache, scores[:, 0], over | (token == options.end), found.at[:, i].set(token)

    blank = jnp.full((count, tokens), options.pad, jnp.int32)
    start = (jnp.int32(0), cache, scores[:, -1], jnp.zeros(count, bool), blank)
    return jax.lax.while_loop(lambda carry: (carry[0] < tokens) & ~carry[3].all(), step, start)[-1]


def _barred(tokens: int, barred: tuple[int, ...]) -> jax.Array:
    """float32 [tokens]: the lowest number, halved so that two of them are finite, at these tokens."""
    return jnp.zeros(tokens).at[jnp.asarray(barred, jnp.int32)].set(jnp.finfo(jnp.float32).min / 2)


def _run(port, params, model_state, side, intercept, x, cache, **call):
    """The units from `begin` to `end`, with a cache's interceptor inside those of the method and the execution."""
    between = () if intercept is None else (intercept,)
    inside = () if not callable(cache) else (cache,)
    with contextlib.ExitStack() as entered:
        for interceptor in (*port.execution.interceptors(port.head, between), *inside):
            entered.enter_context(nn.intercept_methods(interceptor))
        variables = {"params": port.execution.tables(params), **model_state}
        return port.module.apply(variables, x, execution=port.execution, **{**side, **call})


def _decoded(run, port, params, memory, longest, cache, ids, places):
    """(scores [batch, tokens, vocab], the cache with these tokens and the memory)."""
    after = {}
    row = jnp.arange(len(ids))[:, None]
    relative = port.options.decoder_spec.relative
    distances = None if relative is None else relative_bias(params[BEGIN]["relative"], relative, places, longest)

    def intercept(next_fun, args, kwargs, context):
        names, module = context.module.path, context.module
        if context.method_name != "__call__" or not names or not names[0].startswith("decoder_block_"):
            return next_fun(*args, **kwargs)
        path = "/".join(names)
        if isinstance(module, Dense) and names[1:] in (("cross", "key"), ("cross", "value")):
            after[path] = cache[path] if path in cache else next_fun(*args, **kwargs)
            return after[path]
        if not isinstance(module, DotProductAttention) or names[1] != "attn":
            return next_fun(*args, **kwargs)
        query, *new = args[:3]
        blank = (jnp.zeros((len(ids), longest, *x.shape[2:]), x.dtype) for x in new)
        old = cache[path] if path in cache else tuple(blank)
        after[path] = keys, values = tuple(x.at[row, places].set(y) for x, y in zip(old, new, strict=True))
        seen = jnp.arange(longest) <= places[:, :, None]
        bias = jnp.where(seen, 0.0, jnp.finfo(jnp.float32).min / 2)[:, None]
        bias = bias if distances is None else bias + distances
        return next_fun(query, keys, values, bias=bias, scale=kwargs.get("scale", 0.0), prefix=kwargs.get("prefix"))

    scores = run(memory, intercept, begin=BEGIN, decoder_input_ids=ids, places=places)
    return scores, after

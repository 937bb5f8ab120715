"""Softmax attention of every family: fused kernels on accelerators, products with the heads first on a CPU.

A fused kernel never holds the scores, [batch, heads, tokens, tokens] (Dao et al., 2022, arXiv:2205.14135): cuDNN's on
GPUs, JAX's Pallas kernel on TPUs. `kernel` says where they are used; elsewhere attention is plain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

BLOCK = 512  # tokens that a TPU's kernel takes at a time, at most
LANES = 128  # of a TPU: its kernel takes tokens in multiples of them
SHORTEST = 512  # tokens of a TPU's kernel: from here on plans show that it saves memory
# Custom calls of the fused kernels in a lowered program; XLA does not count their operations.
CALLS = ("tpu_custom_call", "__cudnn$fmha")


class DotProductAttention(nn.Module):
    """`attention` as a module without parameters: a pass's `Execution` says on which devices it runs."""

    @nn.compact
    def __call__(self, *arrays: jax.Array | None, **settings: Any) -> jax.Array:
        return attention(*arrays, **settings)


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None = None,
    *,
    bias: jax.Array | None = None,
    causal: bool = False,
    window: int = 0,
    scale: float = 0.0,
    drop: Callable[[jax.Array], jax.Array] | None = None,
    prefix: tuple[jax.Array, jax.Array] | None = None,
    batched: NamedSharding | None = None,
) -> jax.Array:
    """Softmax attention; scores and softmax in float32.

    Args:
      query: [batch, tokens, heads, width].
      key: likewise; of fewer heads, each is shared by as many queries.
      value: as `key`.
      mask: [batch, tokens], positive at tokens, 0 at the padding that follows them, whose keys are left out; a row of
        padding alone has finite values without a meaning.
      bias: added to the scores, [batch or 1, heads, query, key].
      causal: whether a token sees none after it.
      window: tokens on each side that a token sees; 0: all.
      scale: of the scores; 0: 1 / sqrt(width).
      drop: dropout of the weights, [batch, heads, query, key] -> the same; None where it is off.
      prefix: keys and values of all examples, [tokens, heads of `key`, width] each, that every query sees beside those
        of the tokens, whatever mask, bias and window say of these. A method's interceptor gives them, outside of a
        cache's, which keeps the tokens' own.
      batched: how examples lie on the devices; None where that is not known, and no fused kernel is used.

    Returns:
      [batch, tokens, heads, width]
    """
    if prefix is not None:
        kept, count = _seen(query.shape[1], key.shape[1], causal, window), len(prefix[0])
        mask, bias, kept = _more(mask, count, 1), _more(bias, count, 0), _more(kept, count, True)
        key, value = (
            jnp.concatenate([jnp.broadcast_to(first.astype(x.dtype), (len(x), *first.shape)), x], 1)
            for first, x in zip(prefix, (key, value), strict=True)
        )
    if query.shape[2] != key.shape[2]:
        key, value = (jnp.repeat(x, query.shape[2] // key.shape[2], 2) for x in (key, value))
    if prefix is not None:  # the fused kernels take as many keys as queries
        return _heads_first(query, key, value, mask, drop, bias, kept, scale)
    if drop is not None or bias is not None or causal or window or scale:  # the fused kernels have none of these
        kept = _seen(query.shape[1], key.shape[1], causal, window)
        return _heads_first(query, key, value, mask, drop, bias, kept, scale)
    chosen = "plain" if batched is None else kernel(_platform(batched), query.dtype, query.shape[1], query.shape[3])
    if chosen == "plain" or len(query) % _ways(batched, batched.spec[0]):
        arrays = (query, key, value) if mask is None else (query, key, value, mask)
        return jax.lax.platform_dependent(*arrays, cpu=_heads_first, default=_plain)
    return _on_each(FUSED[chosen], batched)(query, key, value, mask)


def kernel(platform: str, dtype: Any, tokens: int, width: int) -> str:
    """The form that attention without dropout takes: `cudnn`, `flash` (a TPU's) or `plain`.

    Masks are of no account: both kernels have them. In float32 attention is plain, since a kernel's products round it.

    Args:
      platform: `cuda` (with tensor cores of Ampere or later), `tpu` or another one.
      dtype: of query, key and value.
      tokens: of an example.
      width: of a head.
    """
    if platform == "cuda" and dtype in (jnp.bfloat16, jnp.float16) and width % 8 == 0 and width <= 128:
        return "cudnn"
    if platform == "tpu" and dtype == jnp.bfloat16 and tokens >= SHORTEST and width <= LANES:
        return "flash"
    return "plain"


def _platform(batched: NamedSharding) -> str:
    device = batched.mesh.devices.flat[0]
    if device.platform != "gpu":
        return device.platform
    major = str(getattr(device, "compute_capability", "")).split(".")[0]  # of an AMD GPU: gfx942
    return "cuda" if major.isdigit() and int(major) >= 8 else "gpu"


def _heads_first(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None = None,
    drop: Callable[[jax.Array], jax.Array] | None = None,
    bias: jax.Array | None = None,
    seen: jax.Array | None = None,
    scale: float = 0.0,
) -> jax.Array:
    """The axes of a product come last: as [batch, tokens, heads, width] it takes twice as long on a CPU.

    `seen` [query, key] says which keys a query sees; for the others see `attention`.
    """
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    scale = scale or query.shape[-1] ** -0.5
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32) * scale
    scores = scores if bias is None else scores + bias
    scores = scores if seen is None else jnp.where(seen, scores, jnp.finfo(jnp.float32).min)
    if mask is not None:
        # The lowest float, not minus infinity: a row of padding alone stays finite.
        scores = jnp.where(mask[:, None, None, :] > 0, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores).astype(value.dtype)
    weights = weights if drop is None else drop(weights)
    return jnp.einsum("bhqk,bhkd->bhqd", weights, value).swapaxes(1, 2)


def _seen(queries: int, keys: int, causal: bool, window: int) -> jax.Array | None:
    """Which keys each query sees, bool [queries, keys]; the last query is at the last key. None: all of them."""
    if not causal and not window:
        return None
    distance = jnp.arange(keys)[None, :] - jnp.arange(keys - queries, keys)[:, None]
    near = jnp.abs(distance) <= window if window else jnp.full(distance.shape, True)
    return near & (distance <= 0) if causal else near


def _more(keys: jax.Array | None, count: int, value: int) -> jax.Array | None:
    """The array, whose last axis is of keys, with the same value for so many in front of them."""
    return None if keys is None else jnp.pad(keys, ((0, 0),) * (keys.ndim - 1) + ((count, 0),), constant_values=value)


def _plain(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    kept = None if mask is None else mask[:, None, None, :] > 0
    return jax.nn.dot_product_attention(query, key, value, mask=kept)


def _cudnn(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Padding by its length: as a mask it would be an array [batch, 1, tokens, tokens]."""
    lengths = None if mask is None else jnp.maximum((mask > 0).sum(1, dtype=jnp.int32), 1)
    return jax.nn.dot_product_attention(query, key, value, key_value_seq_lengths=lengths, implementation="cudnn")


def _flash(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The TPU's kernel, run again in the backward pass.

    Kept for it, its own arrays would take twice the memory or more: a head is padded to `LANES`. What is kept is
    [batch, tokens, heads * width].
    """
    merged = (x.reshape(*x.shape[:2], -1) for x in (query, key, value))
    return jax.checkpoint(_blocks, static_argnums=0)(query.shape[2], *merged, mask).reshape(query.shape)


def _blocks(heads: int, query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None) -> jax.Array:
    """[batch, tokens, heads * width] each: whole blocks of tokens; keys of padding are in a segment without queries."""
    from jax.experimental.pallas.ops.tpu import flash_attention as tpu  # takes a while, and only TPUs need it

    batch, tokens, width = query.shape
    width //= heads
    short = -tokens % LANES
    padded = tokens + short
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, short), (0, 0))).reshape(batch, padded, heads, width).swapaxes(1, 2)
        for x in (query, key, value)
    )
    segments = None
    if mask is not None or short:
        kept = jnp.ones((batch, tokens), jnp.int32) if mask is None else (mask > 0).astype(jnp.int32)
        segments = tpu.SegmentIds(jnp.ones((batch, padded), jnp.int32), jnp.pad(kept, ((0, 0), (0, short))))
    block = max(size for size in range(LANES, BLOCK + 1, LANES) if padded % size == 0)
    # Backward, an array [batch, heads, tokens, block_k_major] is made: one of 512 would take what the scores do.
    large, small = ("q", "k_major", "k", "q_major_dkv", "q_dkv", "q_dq"), ("k_major_dkv", "k_dkv", "k_major_dq", "k_dq")
    names = {**dict.fromkeys(large, block), **dict.fromkeys(small, LANES)}
    sizes = tpu.BlockSizes(block_b=1, **{f"block_{name}": size for name, size in names.items()})
    mixed = tpu.flash_attention(query, key, value, segment_ids=segments, sm_scale=width**-0.5, block_sizes=sizes)
    return mixed.swapaxes(1, 2)[:, :tokens].reshape(batch, tokens, -1)


FUSED = {"cudnn": _cudnn, "flash": _flash}


def _on_each(fused: Callable[..., jax.Array], batched: NamedSharding) -> Callable[..., jax.Array]:
    """The kernel on every device's own examples, and own heads where other axes of the mesh divide them: the compiler
    does not partition kernels."""
    mesh, examples = batched.mesh, batched.spec[0]
    if mesh.size == 1:
        return fused

    def call(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None) -> jax.Array:
        others = tuple(name for name in mesh.axis_names if name not in _names(examples))
        heads = others if query.shape[2] % _ways(batched, others) == 0 else None
        whole = PartitionSpec(examples, None, heads, None)
        specs = (whole, whole, whole, None if mask is None else PartitionSpec(examples, None))
        return jax.shard_map(fused, mesh=mesh, in_specs=specs, out_specs=whole, check_vma=False)(
            query, key, value, mask
        )

    return call


def _names(axes: Any) -> tuple[str, ...]:
    return axes if isinstance(axes, tuple) else (axes,)


def _ways(batched: NamedSharding, axes: Any) -> int:
    return math.prod(batched.mesh.shape[name] for name in _names(axes))

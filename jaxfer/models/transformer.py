"""The transformer block of every family, written once: a `Spec` says which of its forms.

Parameters of a block: `norm_1`, `attn/{query,key,value,out}` and `norm_2`, `mlp/{fc1,fc2}`, with `mlp/gate` where the
MLP is gated, `scale_1` and `scale_2` with LayerScale, `attn/{query,key}_norm` where queries and keys are normed,
`post_1` and `post_2` where what a branch gives is.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.models import kernels
from jaxfer.models.attention import DotProductAttention
from jaxfer.models.layers import Dense, like

# By Hugging Face's `hidden_act`.
ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": kernels.gelu,
    "gelu_new": functools.partial(nn.gelu, approximate=True),
    "gelu_pytorch_tanh": functools.partial(nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "relu": nn.relu,
    "silu": nn.silu,
    "swish": nn.silu,
    "tanh": jnp.tanh,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rotary:
    """Rotary positions (Su et al., 2021, arXiv:2104.09864), by halves of a head as transformers has them.

    Attributes:
      theta: base of the wavelengths.
      share: of a head's width that is turned.
      factor: by which places are divided (Chen et al., 2023, arXiv:2306.15595).
      llama3: (factor, low, high, tokens) of Llama 3.1's scaling: waves longer than tokens / low are divided by the
        factor, those shorter than tokens / high are kept, and between them the two are mixed; (): none.
    """

    theta: float = 10000.0
    share: float = 1.0
    factor: float = 1.0
    llama3: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Relative:
    """A bias of attention's scores by distance, in buckets (Raffel et al., 2019, arXiv:1910.10683, sec. 2.1).

    Its table [buckets, heads] belongs to another unit, which lends it as `relative`.

    Attributes:
      buckets: of distances.
      farthest: distances from here on share a bucket.
      both: whether tokens before and after have buckets of their own; else those after share the first.
    """

    buckets: int = 32
    farthest: int = 128
    both: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """Which form a transformer block has.

    Attributes:
      heads: of attention.
      mlp_width: hidden channels of the MLP.
      order: `pre`: `x + branch(norm(x))`; `post`: `norm(x + branch(x))`; `sandwich`: `x + norm(branch(norm(x)))`.
      norm: `layer` or `rms` (Zhang and Sennrich, 2019, arXiv:1910.07467), or `rms_1p`, which scales by 1 + its leaf.
      norm_bias: whether a LayerNorm has a bias.
      norm_first: whether attention's branch has its norm; ModernBERT's first block has none.
      epsilon: of every norm.
      activation: a name of `ACTIVATIONS`.
      gated: `fc2(activation(fc1(x)) * gate(x))`: SwiGLU, GeGLU (Shazeer, 2020, arXiv:2002.05202).
      joined: whether `fc1` and `gate` are one layer, `fc1` [width, 2, mlp_width], the activated half first.
      bias: whether the output layer of attention and the layers of the MLP have biases.
      qkv_bias: whether query, key and value have; of each where they differ.
      key_heads: heads of key and value, shared by groups of queries (Ainslie et al., 2023, arXiv:2305.13245); 0: as
        many as `heads`.
      head_width: channels of a head; 0: the width divided by the heads.
      qk_norm: whether queries and keys are normed by head, as the blocks are.
      scale: of the scores; 0: 1 / sqrt(width of a head).
      causal: whether a token sees none after it.
      window: tokens on each side that a token sees; 0: all.
      rotary: rotary positions of queries and keys.
      alibi: whether scores fall linearly with distance (Press et al., 2021, arXiv:2108.12409).
      relative: biases by distance.
      layer_scale: whether each branch is scaled by learned channels (Touvron et al., 2021, arXiv:2103.17239).
      layer_scale_init: of these.
      dropout: rate at the end of each branch.
      attention_dropout: rate on attention's weights.
      out_dropout: rate at the end of attention's branch; None: as `dropout`.
      mlp_dropout: rate after the activation; None has no such place.
      drop_rate: of whole branches (stochastic depth).
    """

    heads: int
    mlp_width: int
    order: str = "pre"
    norm: str = "layer"
    norm_bias: bool = True
    norm_first: bool = True
    epsilon: float = 1e-6
    activation: str = "gelu"
    gated: bool = False
    joined: bool = False
    bias: bool = True
    qkv_bias: bool | tuple[bool, bool, bool] = True
    key_heads: int = 0
    head_width: int = 0
    qk_norm: bool = False
    scale: float = 0.0
    causal: bool = False
    window: int = 0
    rotary: Rotary | None = None
    alibi: bool = False
    relative: Relative | None = None
    layer_scale: bool = False
    layer_scale_init: float = 1e-5
    dropout: float = 0.0
    attention_dropout: float = 0.0
    out_dropout: float | None = None
    mlp_dropout: float | None = None
    drop_rate: float = 0.0


def layer_norm(epsilon: float, name: str, *, bias: bool = True) -> nn.LayerNorm:
    """Layer normalisation over the last axis; the two-pass variance is PyTorch's and does not cancel."""
    return nn.LayerNorm(epsilon, use_bias=bias, use_fast_variance=False, name=name)


class OffsetRMSNorm(nn.RMSNorm):
    """RMSNorm over the last axis that scales by 1 + `scale` [channels], in float32: Gemma's."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.zeros, x.shape[-1:])
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt((y**2).mean(-1, keepdims=True) + self.epsilon)
        return (y * (1 + scale)).astype(x.dtype)


def norm(spec: Spec, name: str) -> nn.Module:
    """The norm that a spec says, over the last axis."""
    if spec.norm != "layer":
        kind = OffsetRMSNorm if spec.norm == "rms_1p" else nn.RMSNorm
        return kind(epsilon=spec.epsilon, use_fast_variance=False, name=name)
    return layer_norm(spec.epsilon, name, bias=spec.norm_bias)


class Attention(nn.Module):
    """Multi-head self-attention: [batch, tokens, width] -> the same; the softmax is in float32."""

    spec: Spec

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        attention_mask: jax.Array | None = None,
        relative: jax.Array | None = None,
        rotations: tuple[jax.Array, jax.Array] | None = None,
        places: jax.Array | None = None,
        bias: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """
        Args:
          x: [batch, tokens, width].
          attention_mask: [batch, tokens], positive at tokens; None sees all.
          relative: table [buckets, heads] of `Relative`.
          rotations: (cos, sin), [tokens, head width] each, in place of those of `Rotary`.
          places: of the tokens in their text, int32 [batch, tokens], for `Rotary`; None: from 0 on.
          bias: added to the scores, [batch or 1, heads, query, key], in place of those of the spec.
          train: whether dropout is on.
        """
        spec, width = self.spec, x.shape[-1]
        head = spec.head_width or width // spec.heads
        biases = (spec.qkv_bias,) * 3 if isinstance(spec.qkv_bias, bool) else spec.qkv_bias
        counts = (spec.heads, *(spec.key_heads or spec.heads,) * 2)
        query, key, value = (
            Dense((count, head), use_bias=bias, name=name)(x)
            for name, count, bias in zip(("query", "key", "value"), counts, biases, strict=True)
        )
        if spec.qk_norm:
            query, key = norm(spec, "query_norm")(query), norm(spec, "key_norm")(key)
        if rotations is None and spec.rotary is not None:
            rotations = turns(x.shape[1] if places is None else places, head, spec.rotary)
        if rotations is not None:
            query, key = turned(query, *rotations), turned(key, *rotations)
        drop = None
        if train and spec.attention_dropout:
            drop = functools.partial(nn.Dropout(spec.attention_dropout, name="drop"), deterministic=False)
        mixed = DotProductAttention(name="mix")(
            query,
            key,
            value,
            attention_mask,
            bias=_biases(spec, x.shape[1], relative) if bias is None else bias,
            causal=spec.causal,
            window=spec.window,
            scale=spec.scale,
            drop=drop,
        )
        return Dense((width,), inputs=2, use_bias=spec.bias, name="out")(mixed)


class Mlp(nn.Module):
    """Two dense layers with an activation between them, the first one gated by a third: [..., width] -> the same."""

    spec: Spec

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        spec = self.spec
        widths = (2, spec.mlp_width) if spec.joined else (spec.mlp_width,)
        y = Dense(widths, use_bias=spec.bias, name="fc1")(x)
        if spec.joined:
            y, gate = y[..., 0, :], y[..., 1, :]
        y = ACTIVATIONS[spec.activation](y)
        if spec.joined:
            y = y * gate
        elif spec.gated:
            y = y * Dense((spec.mlp_width,), use_bias=spec.bias, name="gate")(x)
        if spec.mlp_dropout is not None:
            y = nn.Dropout(spec.mlp_dropout, name="drop")(y, deterministic=not train)
        return Dense((x.shape[-1],), use_bias=spec.bias, name="fc2")(y)


class Block(nn.Module):
    """Attention and the MLP, each a branch beside its input: [batch, tokens, width] -> the same.

    Attributes:
      carried: where the head reads the class tokens of several blocks: how many of x's first tokens are those of
        earlier ones, which pass unchanged. x's own class token is kept behind them. None: nothing is kept.
    """

    spec: Spec
    carried: int | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        attention_mask: jax.Array | None = None,
        relative: jax.Array | None = None,
        rotations: tuple[jax.Array, jax.Array] | None = None,
        places: jax.Array | None = None,
        bias: jax.Array | None = None,
        train: bool,
        **side: Any,
    ) -> jax.Array:
        around = dict(
            attention_mask=attention_mask,
            relative=relative,
            rotations=rotations,
            places=places,
            bias=bias,
            train=train,
        )
        if self.carried is None:
            return self._block(x, around)
        return jnp.concatenate([x[:, : self.carried + 1], self._block(x[:, self.carried :], around)], 1)

    @nn.nowrap
    def _block(self, x: jax.Array, around: Mapping[str, Any]) -> jax.Array:
        spec, train = self.spec, around["train"]

        def attn(x):
            return self._ended(Attention(spec, name="attn")(x, **around), "1", train)

        def mlp(x):
            return self._ended(Mlp(spec, name="mlp")(x, train=train), "2", train)

        norm_1 = norm(spec, "norm_1") if spec.norm_first else lambda x: x
        norm_2 = norm(spec, "norm_2")
        if spec.order == "post":
            x = norm_1(x + attn(x))
            return norm_2(x + mlp(x))
        if spec.order == "sandwich":
            x = x + norm(spec, "post_1")(attn(norm_1(x)))
            return x + norm(spec, "post_2")(mlp(norm_2(x)))
        x = x + attn(norm_1(x))
        return x + mlp(norm_2(x))

    @nn.nowrap
    def _ended(self, y: jax.Array, branch: str, train: bool) -> jax.Array:
        if self.spec.layer_scale:
            start = nn.initializers.constant(self.spec.layer_scale_init)
            y = y * like(self.param(f"scale_{branch}", start, y.shape[-1:]), y)
        attends = branch == "1" and self.spec.out_dropout is not None
        rate = self.spec.out_dropout if attends else self.spec.dropout
        y = nn.Dropout(rate, name=f"drop_{branch}")(y, deterministic=not train)
        skip = nn.Dropout(self.spec.drop_rate, broadcast_dims=(1, 2), name=f"skip_{branch}")  # stochastic depth
        return skip(y, deterministic=not train)


def turns(places: jax.Array | int, width: int, rotary: Rotary) -> tuple[jax.Array, jax.Array]:
    """(cos, sin) of each place [..., tokens] and channel, float32 [..., tokens, turned channels]; the halves of a head
    share angles. A number of tokens stands for the places from 0 on."""
    places = jnp.arange(places) if isinstance(places, int) else places
    channels = int(width * rotary.share) // 2 * 2
    waves = rotary.theta ** (-jnp.arange(0, channels, 2, dtype=jnp.float32) / channels)
    angles = places.astype(jnp.float32)[..., None] * _scaled(waves, rotary)
    angles = jnp.concatenate([angles, angles], -1)
    return jnp.cos(angles), jnp.sin(angles)


def _scaled(waves: jax.Array, rotary: Rotary) -> jax.Array:
    """The frequencies for longer texts than the model was made with, in radians per token."""
    if not rotary.llama3:
        return waves if rotary.factor == 1.0 else waves / rotary.factor
    factor, low, high, tokens = rotary.llama3
    turned = tokens * waves / (2 * math.pi)  # turns within the former longest text
    kept = jnp.clip((turned - low) / (high - low), 0, 1)
    return (1 - kept) * waves / factor + kept * waves


def turned(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """[batch, tokens, heads, width] with its first channels turned by the angles of (cos, sin), [tokens, channels] or
    [batch, tokens, channels]."""
    channels = cos.shape[-1]
    part, rest = x[..., :channels].astype(jnp.float32), x[..., channels:]
    first, second = jnp.split(part, 2, -1)
    part = part * cos[..., None, :] + jnp.concatenate([-second, first], -1) * sin[..., None, :]
    return jnp.concatenate([part.astype(x.dtype), rest], -1)


def _biases(spec: Spec, tokens: int, table: jax.Array | None) -> jax.Array | None:
    """What is added to attention's scores, float32 [1, heads, query, key]."""
    distance = jnp.arange(tokens)[None, :] - jnp.arange(tokens)[:, None]  # of the key from the query
    if spec.relative is not None:
        buckets = jnp.asarray(_buckets(tokens, spec.relative))[distance + tokens - 1]
        return jnp.moveaxis(table[buckets].astype(jnp.float32), -1, 0)[None]
    if spec.alibi:
        return -jnp.abs(distance)[None, None] * jnp.asarray(slopes(spec.heads))[:, None, None]
    return None


def relative_bias(table: jax.Array, relative: Relative, places: jax.Array, keys: int) -> jax.Array:
    """What is added to the scores of queries at `places` [batch, query] for the keys at 0 to `keys` - 1, float32
    [batch, heads, query, key]."""
    buckets = jnp.asarray(_buckets(keys, relative))[jnp.arange(keys) - places[..., None] + keys - 1]
    return jnp.moveaxis(table[buckets].astype(jnp.float32), -1, 1)


def _buckets(tokens: int, relative: Relative) -> np.ndarray:
    """The bucket of each distance from 1 - tokens to tokens - 1; far ones are told apart by their logarithm.

    Found on the host: where a logarithm is a whole number, devices differ in its last bit, and so in the bucket.
    """
    distance = np.arange(1 - tokens, tokens)
    count = relative.buckets // 2 if relative.both else relative.buckets
    start = np.where(distance > 0, count, 0) if relative.both else 0
    far = np.abs(distance) if relative.both else np.maximum(-distance, 0)
    exact = count // 2
    share = np.log(np.maximum(far, 1) / exact) / math.log(relative.farthest / exact)
    logarithmic = np.minimum(exact + np.floor(share * (count - exact) + 1e-9).astype(int), count - 1)
    return start + np.where(far < exact, far, logarithmic)


def slopes(heads: int) -> list[float]:
    """ALiBi's slope of each head: a geometric series, filled up by every other one of the next power of two."""
    whole = 2 ** math.floor(math.log2(heads))
    series = [2 ** (-8 * (i + 1) / whole) for i in range(whole)]
    return series + [2 ** (-4 * (2 * i + 1) / whole) for i in range(heads - whole)]

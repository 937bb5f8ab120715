"""DeBERTa: attention of contents and of distances, apart (He et al., 2020, arXiv:2006.03654; 2021, arXiv:2111.09543).

| network           | vocab   | width | layers | heads | mlp_width | besides              |
|-------------------|---------|-------|--------|-------|-----------|----------------------|
| deberta-v3-xsmall | 128,100 | 384   | 12     | 6     | 1536      |                      |
| deberta-v3-small  | 128,100 | 768   | 6      | 12    | 3072      |                      |
| deberta-v3-base   | 128,100 | 768   | 12     | 12    | 3072      |                      |
| deberta-v3-large  | 128,100 | 1024  | 24     | 16    | 4096      |                      |
| mdeberta-v3-base  | 251,000 | 768   | 12     | 12    | 3072      |                      |
| deberta-v2-xlarge | 128,100 | 1536  | 24     | 24    | 6144      | conv=3, its act gelu |
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.errors import InputError
from jaxfer.models import text
from jaxfer.models.attention import DotProductAttention
from jaxfer.models.heads import EMBEDDING, POOLED, TOKEN, VOCAB
from jaxfer.models.layers import Conv, Dense, like
from jaxfer.models.options import choice, option, positive, rate, size
from jaxfer.models.port import Port
from jaxfer.models.text import TokenHead, VocabHead, pooled_tokens
from jaxfer.models.transformer import ACTIVATIONS, Mlp, layer_norm

HEADS = text.HEADS


def _least(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError(f"{name} must be a positive integer, or 0 for none, found {value!r}")


@dataclass(frozen=True, kw_only=True)
class Options(text.EncoderOptions):
    """The default is deberta-v3-base.

    Attributes:
      pool: `pooler` is a dense layer on the first token.
      types: rows of the token type embedding; 0 for none.
      c2p: whether contents attend to distances.
      p2c: whether distances attend to contents.
      share_att_key: whether distances go through the layers of the contents' queries and keys, or have their own.
      position_buckets: far distances share so many buckets on each side, by their logarithm; 0: none are shared.
      max_distance: distances from here on are not told apart; 0: `positions`.
      norm_distances: whether the embedding of distances is normed.
      position_biased: whether a learned position is added to the embeddings.
      conv: tokens of a convolution beside the first block, an odd number; 0 for none.
      conv_activation: of that.
      pooler_activation: of the pooler.
      pooler_dropout: rate before it.
    """

    vocab: int = size(128100)
    types: int = option(0, _least)
    epsilon: float = positive(1e-7)
    c2p: bool = option(True)
    p2c: bool = option(True)
    share_att_key: bool = option(True)
    position_buckets: int = option(256, _least)
    max_distance: int = option(0, _least)
    norm_distances: bool = option(True)
    position_biased: bool = option(False)
    conv: int = option(0, _least)
    conv_activation: str = choice("tanh", tuple(ACTIVATIONS))
    pooler_activation: str = choice("gelu", tuple(ACTIVATIONS))
    pooler_dropout: float = rate(0.0)

    form: ClassVar[text.Form] = text.Form(pooler="gelu")

    def check(self) -> None:
        super().check()
        if self.conv and not self.conv % 2:
            raise InputError(f"conv must be an odd number of tokens, or 0 for none, found {self.conv}")
        if not (self.c2p or self.p2c):
            raise InputError("c2p and p2c are both False; without distances the model is a bert")
        if self.position_buckets and not 2 <= self.position_buckets < 2 * (self.farthest - 1):
            raise InputError(
                f"position_buckets must be from 2 to less than twice the distances of {self.farthest}, found "
                f"{self.position_buckets}"
            )

    @property
    def farthest(self) -> int:
        return self.max_distance or self.positions

    @property
    def span(self) -> int:
        """Rows of the embedding of distances on each side."""
        return self.position_buckets or self.farthest


def buckets(distance: np.ndarray, options: Options) -> np.ndarray:
    """The row of each distance in the embedding of distances, counted from its middle.

    Near distances have rows of their own, far ones share them by their logarithm (arXiv:2006.03654, appendix A.5). In
    float32, as the reference has it; on the host, since devices differ in a logarithm's last bit.
    """
    rows, span, mid = distance, options.span, options.position_buckets // 2
    if options.position_buckets:
        far = np.maximum(np.abs(distance), mid).astype(np.float32)
        share = np.log(far / np.float32(mid)) / np.log(np.float32((options.farthest - 1) / mid))
        shared = (np.ceil(share * np.float32(mid - 1)) + mid).astype(int)
        rows = np.where(np.abs(distance) <= mid, distance, np.sign(distance) * shared)
    return np.clip(rows, -span, span - 1)


def skewed(scores: jax.Array) -> jax.Array:
    """[..., tokens, 2 tokens] by distance, from 1 - tokens on -> [..., tokens, tokens]: entry (i, j) is of j - i.

    The rows, laid end to end and cut one entry shorter each, shift by one: no gather, whose gradient is slow.
    """
    *batch, tokens, width = scores.shape
    flat = scores.reshape(*batch, tokens * width)[..., tokens - 1 : tokens - 1 + tokens * (width - 1)]
    return flat.reshape(*batch, tokens, width - 1)[..., :tokens]


class Distance(nn.Module):
    """Keys and queries of distances: [rows, width] -> {name: [rows, heads, width of a head]}."""

    names: tuple[str, ...]
    shape: tuple[int, int]

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        return {name: Dense(self.shape, name=name)(x) for name in self.names}


class Attention(nn.Module):
    """Disentangled self-attention: [batch, tokens, width] -> the same (arXiv:2006.03654, eq. 4)."""

    options: Options

    @nn.compact
    def __call__(self, x: jax.Array, *, attention_mask: jax.Array, distances: jax.Array, train: bool) -> jax.Array:
        """`distances`: the embedding of distances, [2 span, width]."""
        options, (_, tokens, width), wide = self.options, x.shape, jnp.float32
        shape, span = (options.heads, width // options.heads), options.span
        layers = {name: Dense(shape, name=name) for name in ("query", "key", "value")}
        query, key, value = (layer(x) for layer in layers.values())
        scale = (shape[1] * (1 + options.c2p + options.p2c)) ** -0.5

        distance = np.arange(1 - tokens, tokens + 1)
        after, before = buckets(distance, options), buckets(-distance, options)
        first, last = min(after.min(), before.min()), max(after.max(), before.max())
        table = nn.Dropout(options.dropout, name="drop_distances")(distances, deterministic=not train)
        table, scores = table[span + first : span + last + 1], 0.0  # the rows that are read
        names = (*("key",) * options.c2p, *("query",) * options.p2c)
        if options.share_att_key:
            rows = {name: layers[name](table) for name in names}
        else:
            rows = Distance(names, shape, name="distance")(table)
        if options.c2p:  # a distance is the query's place minus the key's
            of_queries = jnp.einsum("bqhd,rhd->bhqr", query, rows["key"][before - first], preferred_element_type=wide)
            scores += skewed(of_queries)
        if options.p2c:
            of_keys = jnp.einsum("bkhd,rhd->bhkr", key, rows["query"][after - first], preferred_element_type=wide)
            scores += skewed(of_keys).swapaxes(2, 3)
        drop, dropout = None, options.dropout if options.attention_dropout is None else options.attention_dropout
        if train and dropout:
            drop = functools.partial(nn.Dropout(dropout, name="drop"), deterministic=False)
        mixed = DotProductAttention(name="mix")(
            query, key, value, attention_mask, bias=scores * scale, scale=scale, drop=drop
        )
        return Dense((width,), inputs=2, name="out")(mixed)


class Block(nn.Module):
    """Attention and the MLP, each normed with what it is added to: [batch, tokens, width] -> the same.

    Attributes:
      first: whether it is the first block, which may have a convolution beside it.
    """

    options: Options
    first: bool

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        attention_mask: jax.Array,
        distances: jax.Array,
        distance_scale: jax.Array | None = None,
        distance_bias: jax.Array | None = None,
        train: bool,
        **side: Any,
    ) -> jax.Array:
        options = self.options
        if distance_scale is not None:
            distances = _normed(distances, options.epsilon) * distance_scale + distance_bias

        def dropped(name: str, y: jax.Array) -> jax.Array:
            return nn.Dropout(options.dropout, name=name)(y, deterministic=not train)

        attention = Attention(options, name="attn")
        y = attention(x, attention_mask=attention_mask, distances=like(distances, x), train=train)
        y = layer_norm(options.epsilon, "norm_1")(x + dropped("drop_1", y))
        z = Mlp(options.spec, name="mlp")(y, train=train)
        z = layer_norm(options.epsilon, "norm_2")(y + dropped("drop_2", z))
        if not (self.first and options.conv):
            return z
        kept = attention_mask[:, :, None].astype(x.dtype)
        side_by_side = jnp.pad(x[:, :, None], ((0, 0), (options.conv // 2,) * 2, (0, 0), (0, 0)))
        near = Conv(x.shape[-1], (options.conv, 1), use_bias=True, name="conv")(side_by_side)[:, :, 0] * kept
        near = ACTIVATIONS[options.conv_activation](dropped("drop_conv", near))
        return layer_norm(options.epsilon, "norm_conv")(z + near) * kept


def _normed(x: jax.Array, epsilon: float) -> jax.Array:
    """Layer normalisation over the last axis without parameters."""
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + epsilon)


class Stem(nn.Module):
    """Token ids to embeddings: [batch, length] int32 -> [batch, length, width], normed, 0 at padding.

    It also has the embedding of distances, which the blocks read.
    """

    options: Options

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        attention_mask: jax.Array,
        token_type_ids: jax.Array | None = None,
        train: bool,
        **side: Any,
    ) -> jax.Array:
        options, init = self.options, nn.initializers.normal(0.02)
        embed = functools.partial(nn.Embed, features=options.width, embedding_init=init)
        y = embed(options.vocab, name="word")(x)
        if options.position_biased:
            y = y + embed(options.positions, name="position")(jnp.arange(x.shape[1]))
        if options.types:
            y = y + embed(options.types, name="type")(token_type_ids)
        y = layer_norm(options.epsilon, "norm")(y) * attention_mask[:, :, None].astype(y.dtype)
        distances = self.param("distances", init, (2 * options.span, options.width))
        if options.norm_distances:
            layer_norm(options.epsilon, "norm_distances")(distances)  # for its parameters
        return nn.Dropout(options.dropout, name="drop")(y, deterministic=not train)


class Head(text.Head):
    """A dense layer on the first token, or another pooling, and the output layer."""

    options: Options

    @nn.nowrap
    def pooled(self, x: jax.Array, attention_mask: jax.Array, train: bool) -> jax.Array:
        options = self.options
        if options.pool != "pooler":
            return pooled_tokens(x, attention_mask, options.pool)
        first = nn.Dropout(options.pooler_dropout, name="drop_first")(x[:, 0], deterministic=not train)
        return ACTIVATIONS[options.pooler_activation](Dense((x.shape[-1],), name="pooler")(first))


class Deberta(text.Encoder):
    """The chain stem, block_0 ... block_{layers-1}, head."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        options = self.options
        blocks = {f"block_{i}": functools.partial(Block, options, i == 0) for i in range(options.layers)}
        head = functools.partial(Head, 0 if self.head == EMBEDDING else self.outputs, options)
        if self.head == TOKEN:
            head = functools.partial(TokenHead, self.outputs, options.dropout)
        if self.head == VOCAB:
            head = functools.partial(VocabHead, options.activation, options.epsilon)
        return {"stem": functools.partial(Stem, options), **blocks, "head": head}

    @nn.nowrap
    def shared(self) -> dict[str, dict[str, tuple[str, ...]]]:
        lent = {"distances": ("stem", "distances")}
        if self.options.norm_distances:
            lent |= {f"distance_{leaf}": ("stem", "norm_distances", leaf) for leaf in ("scale", "bias")}
        return super().shared() | {name: lent for name in self.units() if name.startswith("block_")}


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """A DeBERTa; see `encoder_port`."""
    axes = ((r"block_0/conv/kernel", 3),) if options.conv else ()
    return text.encoder_port(options, outputs=outputs, head=head, kind=Deberta, axes=axes)


_SMALL = dict(vocab=23, width=12, layers=2, heads=3, mlp_width=20, positions=9, max_length=7, position_buckets=4)
TINY = {
    "": _SMALL,
    "apart": {**_SMALL, "types": 2, "share_att_key": False, "norm_distances": False, "conv": 3, "position_buckets": 0},
}

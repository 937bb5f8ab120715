"""BERT: the post-norm transformer encoder of text (Devlin et al., 2018, arXiv:1810.04805).

| network           | vocab   | width | layers | heads | mlp_width |
|-------------------|---------|-------|--------|-------|-----------|
| MiniLM-L6         | 30,522  | 384   | 6      | 12    | 1536      |
| BERT-base uncased | 30,522  | 768   | 12     | 12    | 3072      |
| BERT-large        | 30,522  | 1024  | 24     | 16    | 4096      |
| mBERT cased       | 119,547 | 768   | 12     | 12    | 3072      |
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.data.encodings.text import TextEncoding
from jaxfer.errors import InputError
from jaxfer.models import kernels
from jaxfer.models.attention import DotProductAttention
from jaxfer.models.chain import Chain, check_choice, check_positive, check_rate
from jaxfer.models.heads import EMBEDDING, POOLED, TOKEN, VOCAB
from jaxfer.models.layers import BLOCK_TENSOR_AXES, Dense, like
from jaxfer.models.port import Port

# BERT's own, and sentence-transformers' by its names.
POOLS = ("pooler", "mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")

# By Hugging Face's `hidden_act`.
ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": kernels.gelu,
    "gelu_new": functools.partial(nn.gelu, approximate=True),
    "gelu_pytorch_tanh": functools.partial(nn.gelu, approximate=True),
    "relu": nn.relu,
    "silu": nn.silu,
    "swish": nn.silu,
    "tanh": jnp.tanh,
}

PROJECTION_ACTIVATIONS = {"identity": lambda x: x, **ACTIVATIONS}

HEADS = (POOLED, TOKEN, VOCAB, EMBEDDING)
SHORTEST = 32  # tokens in the first default bucket


def layer_norm(epsilon: float, name: str) -> nn.LayerNorm:
    """Layer normalisation over the last axis; the two-pass variance is PyTorch's and does not cancel."""
    return nn.LayerNorm(epsilon, use_fast_variance=False, name=name)


class Stem(nn.Module):
    """Token ids to embeddings: [batch, length] int32 -> [batch, length, width]; token, type and position, normed."""

    vocab: int
    width: int
    positions: int
    types: int
    epsilon: float
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, *, token_type_ids: jax.Array, train: bool, **side: Any) -> jax.Array:
        init = nn.initializers.normal(0.02)
        y = nn.Embed(self.vocab, self.width, embedding_init=init, name="word")(x)
        y = y + nn.Embed(self.types, self.width, embedding_init=init, name="type")(token_type_ids)
        y = y + nn.Embed(self.positions, self.width, embedding_init=init, name="position")(jnp.arange(x.shape[1]))
        y = layer_norm(self.epsilon, "norm")(y)
        return nn.Dropout(self.dropout, name="drop")(y, deterministic=not train)


class Attention(nn.Module):
    """Multi-head self-attention over the tokens that the mask keeps: [batch, length, width] -> the same."""

    heads: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, *, attention_mask: jax.Array, train: bool) -> jax.Array:
        width = x.shape[-1]
        shape = (self.heads, width // self.heads)
        query, key, value = (Dense(shape, name=name)(x) for name in ("query", "key", "value"))
        drop = None
        if train and self.dropout:
            drop = functools.partial(nn.Dropout(self.dropout, name="drop"), deterministic=False)
        mixed = DotProductAttention(name="mix")(query, key, value, attention_mask, drop=drop)
        return Dense((width,), inputs=2, name="out")(mixed)


class Mlp(nn.Module):
    """Two dense layers with an activation between them: [..., width] -> the same."""

    width: int
    activation: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = ACTIVATIONS[self.activation](Dense((self.width,), name="fc1")(x))
        return Dense((x.shape[-1],), name="fc2")(y)


class Block(nn.Module):
    """`norm_1(x + attn(x))`, then `norm_2(x + mlp(x))`, each branch under dropout."""

    heads: int
    mlp_width: int
    activation: str
    epsilon: float
    dropout: float
    attention_dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, *, attention_mask: jax.Array, train: bool, **side: Any) -> jax.Array:
        y = Attention(self.heads, self.attention_dropout, name="attn")(x, attention_mask=attention_mask, train=train)
        x = layer_norm(self.epsilon, "norm_1")(x + self._drop(y, "1", train))
        y = Mlp(self.mlp_width, self.activation, name="mlp")(x)
        return layer_norm(self.epsilon, "norm_2")(x + self._drop(y, "2", train))

    @nn.nowrap
    def _drop(self, y: jax.Array, branch: str, train: bool) -> jax.Array:
        y = nn.Dropout(self.dropout, name=f"drop_{branch}")(y, deterministic=not train)
        skip = nn.Dropout(0.0, broadcast_dims=(1, 2), name=f"skip_{branch}")  # for rules: stochastic depth
        return skip(y, deterministic=not train)


def pooled_tokens(x: jax.Array, attention_mask: jax.Array, pool: str) -> jax.Array:
    """[batch, length, width] -> [batch, width], as sentence-transformers' `Pooling`; padding follows the tokens.

    Several poolings, as in `cls+mean`, give [batch, width times their number], in that order.
    """
    if "+" in pool:
        return jnp.concatenate([pooled_tokens(x, attention_mask, name) for name in pool.split("+")], -1)
    if pool == "cls":
        return x[:, 0]
    if pool == "lasttoken":
        last = jnp.maximum(attention_mask.sum(1) - 1, 0)
        return jnp.take_along_axis(x * attention_mask[:, :, None].astype(x.dtype), last[:, None, None], 1)[:, 0]
    if pool == "max":
        # The lowest float, not minus infinity: a row of padding alone stays finite.
        return jnp.where(attention_mask[:, :, None] > 0, x, jnp.finfo(x.dtype).min).max(1)
    mask = attention_mask[:, :, None].astype(jnp.float32)
    if pool == "weightedmean":  # a token's weight is its place, from 1
        mask = mask * jnp.arange(1, x.shape[1] + 1, dtype=jnp.float32)[:, None]
    count = jnp.maximum(mask.sum(1), 1e-9)
    return (x * mask).sum(1) / (jnp.sqrt(count) if pool == "mean_sqrt_len_tokens" else count)


class Head(nn.Module):
    """The pooler (tanh of a dense layer on the first token) or another pooling of the tokens, and the output layer.

    Attributes:
      outputs: of the output layer; 0 for none: what was pooled is the output.
      projection: width of a dense layer after the pooling; 0 for none.
    """

    outputs: int
    pool: str
    dropout: float
    projection: int = 0
    projection_activation: str = "tanh"
    projection_bias: bool = True
    normalize: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, attention_mask: jax.Array, train: bool, **side: Any) -> jax.Array:
        if self.pool == "pooler":
            pooled = jnp.tanh(Dense((x.shape[-1],), name="pooler")(x[:, 0]))
        else:
            pooled = pooled_tokens(x, attention_mask, self.pool)
        if self.projection:
            pooled = Dense((self.projection,), use_bias=self.projection_bias, name="dense")(pooled)
            pooled = PROJECTION_ACTIVATIONS[self.projection_activation](pooled)
        if self.normalize:
            square = (pooled.astype(jnp.float32) ** 2).sum(-1, keepdims=True)
            pooled = (pooled / jnp.sqrt(jnp.maximum(square, 1e-24))).astype(pooled.dtype)
        if not self.outputs:
            return pooled
        pooled = nn.Dropout(self.dropout, name="drop")(pooled, deterministic=not train)
        return Dense((self.outputs,), name="out")(pooled)


class TokenHead(nn.Module):
    """The output layer at every token: [batch, length, width] -> [batch, length, outputs]."""

    outputs: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, **side: Any) -> jax.Array:
        x = nn.Dropout(self.dropout, name="drop")(x, deterministic=not train)
        return Dense((self.outputs,), name="out")(x)


class VocabHead(nn.Module):
    """Scores of every token of the vocabulary at every token: [batch, length, width] -> [batch, length, vocab].

    A dense layer, the activation and a norm, then products with the rows of the word embedding, `table` [vocab, width],
    which it only reads: `BertForMaskedLM`'s tied decoder.
    """

    activation: str
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, *, table: jax.Array, train: bool, **side: Any) -> jax.Array:
        y = ACTIVATIONS[self.activation](Dense(x.shape[-1:], name="dense")(x))
        y = layer_norm(self.epsilon, "norm")(y)
        bias = self.param("bias", nn.initializers.zeros, table.shape[:1])
        return jnp.einsum("blw,vw->blv", y, like(table, y)) + like(bias, y)


class Bert(Chain, kw_only=True):
    """The chain stem, block_0 ... block_{layers-1}, head; fields as the options of `port`."""

    outputs: int
    head: str
    vocab: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    positions: int
    types: int
    pool: str
    projection: int
    projection_activation: str
    projection_bias: bool
    normalize: bool
    activation: str
    epsilon: float
    dropout: float
    attention_dropout: float
    classifier_dropout: float

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        stem = functools.partial(Stem, self.vocab, self.width, self.positions, self.types, self.epsilon, self.dropout)
        block = functools.partial(
            Block, self.heads, self.mlp_width, self.activation, self.epsilon, self.dropout, self.attention_dropout
        )
        blocks = {f"block_{i}": block for i in range(self.layers)}
        if self.head == TOKEN:
            return {"stem": stem, **blocks, "head": functools.partial(TokenHead, self.outputs, self.classifier_dropout)}
        if self.head == VOCAB:
            return {"stem": stem, **blocks, "head": functools.partial(VocabHead, self.activation, self.epsilon)}
        projection = (self.projection, self.projection_activation, self.projection_bias)
        head = functools.partial(
            Head, self.outputs, self.pool, self.classifier_dropout, *projection, normalize=self.normalize
        )
        return {"stem": stem, **blocks, "head": head}

    @nn.nowrap
    def shared(self) -> dict[str, dict[str, tuple[str, ...]]]:
        return {"head": {"table": ("stem", "word", "embedding")}} if self.head == VOCAB else {}


def port(
    *,
    outputs: int,
    head: str = POOLED,
    vocab: int = 30522,
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    mlp_width: int = 3072,
    positions: int = 512,
    types: int = 2,
    pool: str = "pooler",
    projection: int = 0,
    projection_activation: str = "tanh",
    projection_bias: bool = True,
    normalize: bool = False,
    activation: str = "gelu",
    epsilon: float = 1e-12,
    dropout: float = 0.0,
    attention_dropout: float | None = None,
    classifier_dropout: float | None = None,
    max_length: int = 128,
    buckets: tuple[int, ...] = (),
    tokenizer: str = "",
    tokenizer_sha256: str = "",
) -> Port:
    """BERT with a classifier; the module's table has the published sizes.

    Args:
      outputs: outputs of the head; 0 for a head of another width: `vocab` and `embedding`.
      head: `pooled`; `token` for outputs at every token; `vocab` for the scores of every token of the vocabulary there,
        neither of which pools; `embedding` for what was pooled itself.
      vocab: rows of the token embedding.
      width: channels of a token.
      layers: transformer blocks.
      heads: attention heads; must divide the width.
      mlp_width: hidden channels of the MLP.
      positions: rows of the position embedding, the longest input there can be.
      types: rows of the token type embedding.
      pool: `pooler` (BERT's own, on the first token), or one of sentence-transformers': `mean` over the tokens, their
        `max`, `cls` (the first), `lasttoken`, `weightedmean` (by place) or `mean_sqrt_len_tokens` (sum / sqrt(count));
        or several of the latter side by side: `cls+mean`.
      projection: width of a dense layer after the pooling, sentence-transformers' `Dense`; 0 for none.
      projection_activation: after that layer: `identity`, `tanh` or another of `ACTIVATIONS`.
      projection_bias: whether that layer has a bias.
      normalize: whether the result is scaled to length 1 (L2), sentence-transformers' `Normalize`.
      activation: of the MLP: `gelu` (the exact one) or another of `ACTIVATIONS`.
      epsilon: of every LayerNorm.
      dropout: rate after the embeddings, the attention output and the MLP.
      attention_dropout: rate on the attention weights; None takes `dropout`.
      classifier_dropout: rate after the pooling; None takes `dropout`.
      max_length: tokens at which inputs are cut, special ones included.
      buckets: lengths that batches are padded to, the last being `max_length`; () doubles from 32 up to it.
      tokenizer: folder of the checkpoint's tokenizer.
      tokenizer_sha256: what its files must hash to; empty takes them as they are.

    Raises:
      InputError: an option has no such value, or two don't go together.
    """
    outputs = vocab if head == VOCAB else outputs
    if head != EMBEDDING:
        check_positive(outputs=outputs)
    check_positive(vocab=vocab, width=width, layers=layers, heads=heads, mlp_width=mlp_width)
    check_positive(positions=positions, types=types, max_length=max_length)
    for name in pool.split("+") if "+" in pool else ():
        check_choice("each part of pool", name, POOLS[1:])
    if "+" not in pool:
        check_choice("pool", pool, POOLS)
    check_choice("activation", activation, tuple(ACTIVATIONS))
    check_choice("projection_activation", projection_activation, tuple(PROJECTION_ACTIVATIONS))
    if projection:
        check_positive(projection=projection)
    attention_dropout = dropout if attention_dropout is None else attention_dropout
    classifier_dropout = dropout if classifier_dropout is None else classifier_dropout
    check_rate(dropout=dropout, attention_dropout=attention_dropout, classifier_dropout=classifier_dropout)
    if width % heads:
        raise InputError(f"heads must divide the width, found width={width} and heads={heads}")
    if not epsilon > 0:
        raise InputError(f"epsilon must be positive, found {epsilon!r}")
    if max_length > positions:
        raise InputError(f"max_length must be at most the {positions} positions of the model, found {max_length}")
    module = Bert(
        outputs=outputs,
        head=head,
        vocab=vocab,
        width=width,
        layers=layers,
        heads=heads,
        mlp_width=mlp_width,
        positions=positions,
        types=types,
        pool=pool,
        projection=projection,
        projection_activation=projection_activation,
        projection_bias=projection_bias,
        normalize=normalize,
        activation=activation,
        epsilon=epsilon,
        dropout=dropout,
        attention_dropout=attention_dropout,
        classifier_dropout=classifier_dropout,
    )
    return Port(
        module=module,
        units=tuple(module.units()),
        head="head" if head == VOCAB else "head/out",
        input_axes=((r".*/attn/out/kernel", 2), (r".*/kernel", 1)),
        encodings=(
            TextEncoding(
                tokenizer=tokenizer,
                tokenizer_sha256=tokenizer_sha256,
                vocab=vocab,
                types=types,
                max_length=max_length,
                buckets=_buckets(buckets, max_length),
            ),
        ),
        tensor_axes=(
            *BLOCK_TENSOR_AXES,
            (r"stem/word/embedding", 0),
            (".*", None),
        ),
    )


def _buckets(buckets: tuple[int, ...], max_length: int) -> tuple[int, ...]:
    if not buckets:
        doubled = (SHORTEST << i for i in range(max_length.bit_length()))
        return (*(length for length in doubled if length < max_length), max_length)
    rising = isinstance(buckets, tuple) and all(isinstance(length, int) for length in buckets)
    if not rising or list(buckets) != sorted(set(buckets)) or buckets[0] < 1 or buckets[-1] != max_length:
        raise InputError(f"buckets must be rising lengths that end with max_length={max_length}, found {buckets!r}")
    return buckets

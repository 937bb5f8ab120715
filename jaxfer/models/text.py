"""Encoders of texts: the stem, the heads and the chain that BERT and its successors share.

A family states what is its own in a `Form` and adds its options; `jaxfer.models.transformer` has the blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.models.chain import check_choice
from jaxfer.models.family import Family, family_port
from jaxfer.models.heads import EMBEDDING, POOLED, TOKEN, VOCAB
from jaxfer.models.layers import BLOCK_TENSOR_AXES, Dense, like
from jaxfer.models.options import TextOptions, choice, option, positive, rate, size
from jaxfer.models.port import Port
from jaxfer.models.transformer import ACTIVATIONS, Block, Relative, Spec, layer_norm
from jaxfer.rules import Rules

HEADS = (POOLED, TOKEN, VOCAB, EMBEDDING)
# The family's own, on the first token, and sentence-transformers' by its names.
POOLS = ("pooler", "mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
PROJECTION_ACTIVATIONS = {"identity": lambda x: x, **ACTIVATIONS}


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a family has in a way of its own.

    Attributes:
      order: of a block's norms, `pre` or `post`.
      offset: rows of the position table before that of the first token.
      pooler: activation of the layer that pools the first token.
      drop_first: whether dropout precedes that layer, and not only the output layer.
      vocab_activation: of a vocab head; empty: the blocks'.
      relative: biases of attention by distance, whose table the stem holds.
      once: whether all blocks are one, run as often as there are layers.
    """

    order: str = "post"
    offset: int = 0
    pooler: str = "tanh"
    drop_first: bool = False
    vocab_activation: str = ""
    relative: Relative | None = None
    once: bool = False


@dataclass(frozen=True, kw_only=True)
class EncoderOptions(TextOptions):
    """
    Attributes:
      width: channels of a token.
      layers: transformer blocks.
      heads: attention heads; must divide the width.
      mlp_width: hidden channels of the MLP.
      pool: `pooler` (the family's own, on the first token), or one of sentence-transformers': `mean` over the tokens,
        their `max`, `cls` (the first), `lasttoken`, `weightedmean` (by place) or `mean_sqrt_len_tokens`
        (sum / sqrt(count)); or several of the latter side by side: `cls+mean`.
      projection: width of a dense layer after the pooling, sentence-transformers' `Dense`; 0 for none.
      projection_activation: after that layer: `identity`, `tanh` or another of `ACTIVATIONS`.
      projection_bias: whether that layer has a bias.
      normalize: whether the result is scaled to length 1 (L2), sentence-transformers' `Normalize`.
      activation: of the MLP: `gelu` (the exact one) or another of `ACTIVATIONS`.
      epsilon: of every LayerNorm.
      dropout: rate after the embeddings, the attention output and the MLP.
      attention_dropout: rate on the attention weights; None takes `dropout`.
      classifier_dropout: rate after the pooling; None takes `dropout`.
    """

    width: int = size(768)
    layers: int = size(12)
    heads: int = size(12)
    mlp_width: int = size(3072)
    pool: str = option("pooler", lambda name, value: _check_pool(value))
    projection: int = option(0)
    projection_activation: str = choice("tanh", tuple(PROJECTION_ACTIVATIONS))
    projection_bias: bool = option(True)
    normalize: bool = option(False)
    activation: str = choice("gelu", tuple(ACTIVATIONS))
    epsilon: float = positive(1e-12)
    dropout: float = rate(0.0)
    attention_dropout: float | None = rate(None)
    classifier_dropout: float | None = rate(None)

    form: ClassVar[Form] = Form()

    def check(self) -> None:
        super().check()
        if self.projection < 0:
            raise InputError(f"projection must be a positive integer, or 0 for none, found {self.projection}")
        if self.width % self.heads:
            raise InputError(f"heads must divide the width, found width={self.width} and heads={self.heads}")

    @property
    def order(self) -> str:
        return self.form.order

    @property
    def drop_classifier(self) -> float:
        """Dropout after the pooling."""
        return self.dropout if self.classifier_dropout is None else self.classifier_dropout

    @property
    def spec(self) -> Spec:
        """Of the blocks."""
        return Spec(
            heads=self.heads,
            mlp_width=self.mlp_width,
            order=self.form.order,
            epsilon=self.epsilon,
            activation=self.activation,
            relative=self.form.relative,
            dropout=self.dropout,
            attention_dropout=self.dropout if self.attention_dropout is None else self.attention_dropout,
        )

    @property
    def embedding(self) -> int:
        """Channels of the embeddings; where they are fewer than the blocks', a layer maps one to the other."""
        return self.width

    @property
    def projects(self) -> bool:
        """Whether there is that layer."""
        return self.embedding != self.width


def _check_pool(pool: str) -> None:
    for name in pool.split("+") if "+" in pool else ():
        check_choice("each part of pool", name, POOLS[1:])
    if "+" not in pool:
        check_choice("pool", pool, POOLS)


class Stem(nn.Module):
    """Token ids to embeddings: [batch, length] int32 -> [batch, length, width]; token, type and position, normed."""

    options: EncoderOptions

    @nn.compact
    def __call__(self, x: jax.Array, *, token_type_ids: jax.Array | None = None, train: bool, **side: Any) -> jax.Array:
        options, form = self.options, self.options.form
        init, width = nn.initializers.normal(0.02), options.embedding
        y = nn.Embed(options.vocab, width, embedding_init=init, name="word")(x)
        if options.segments:
            y = y + nn.Embed(options.segments, width, embedding_init=init, name="type")(token_type_ids)
        places = jnp.arange(x.shape[1]) + form.offset
        y = y + nn.Embed(options.positions + form.offset, width, embedding_init=init, name="position")(places)
        y = layer_norm(options.epsilon, "norm")(y)
        if form.relative is not None:
            self.param("relative", init, (form.relative.buckets, options.heads))  # the blocks read it
        y = nn.Dropout(options.dropout, name="drop")(y, deterministic=not train)
        return Dense((options.width,), name="project")(y) if options.projects else y


class Repeated(nn.Module):
    """One block, run several times: [batch, length, width] -> the same."""

    spec: Spec
    times: int

    @nn.compact
    def __call__(self, x: jax.Array, **call: Any) -> jax.Array:
        block = Block(self.spec, name="block")
        for _ in range(self.times):
            x = block(x, **call)
        return x


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
    """The pooler (a dense layer on the first token) or another pooling of the tokens, and the output layer.

    Attributes:
      outputs: of the output layer; 0 for none: what was pooled is the output.
    """

    outputs: int
    options: EncoderOptions

    @nn.compact
    def __call__(self, x: jax.Array, *, attention_mask: jax.Array, train: bool, **side: Any) -> jax.Array:
        options, pooled = self.options, self.pooled(x, attention_mask, train)
        if options.projection:
            pooled = Dense((options.projection,), use_bias=options.projection_bias, name="dense")(pooled)
            pooled = PROJECTION_ACTIVATIONS[options.projection_activation](pooled)
        if options.normalize:
            square = (pooled.astype(jnp.float32) ** 2).sum(-1, keepdims=True)
            pooled = (pooled / jnp.sqrt(jnp.maximum(square, 1e-24))).astype(pooled.dtype)
        if not self.outputs:
            return pooled
        pooled = nn.Dropout(options.drop_classifier, name="drop")(pooled, deterministic=not train)
        return Dense((self.outputs,), name="out")(pooled)

    @nn.nowrap
    def pooled(self, x: jax.Array, attention_mask: jax.Array, train: bool) -> jax.Array:
        """[batch, width]: the first token through the family's own layer, or the tokens as `options.pool` says."""
        options, form, first = self.options, self.options.form, x[:, 0]
        if options.pool != "pooler":
            return pooled_tokens(x, attention_mask, options.pool)
        if form.drop_first:
            first = nn.Dropout(options.drop_classifier, name="drop_first")(first, deterministic=not train)
        return ACTIVATIONS[form.pooler](Dense((x.shape[-1],), name="pooler")(first))


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

    A dense layer, the activation and a norm, then products with the rows of the word embedding, `table` [vocab,
    channels], which it only reads: `BertForMaskedLM`'s tied decoder.
    """

    activation: str
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, *, table: jax.Array, train: bool, **side: Any) -> jax.Array:
        y = ACTIVATIONS[self.activation](Dense(table.shape[1:], name="dense")(x))
        y = layer_norm(self.epsilon, "norm")(y)
        bias = self.param("bias", nn.initializers.zeros, table.shape[:1])
        return jnp.einsum("blw,vw->blv", y, like(table, y)) + like(bias, y)


class Encoder(Family):
    """The chain stem, block_0 ... block_{layers-1}, head; one block where all are the same."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        options = self.options
        if options.form.once:
            blocks = {"block_0": functools.partial(Repeated, options.spec, options.layers)}
        else:
            blocks = {f"block_{i}": functools.partial(Block, options.spec) for i in range(options.layers)}
        head = functools.partial(Head, 0 if self.head == EMBEDDING else self.outputs, options)
        if self.head == TOKEN:
            head = functools.partial(TokenHead, self.outputs, options.drop_classifier)
        if self.head == VOCAB:
            head = functools.partial(VocabHead, options.form.vocab_activation or options.activation, options.epsilon)
        return {"stem": functools.partial(Stem, options), **blocks, "head": head}

    @nn.nowrap
    def shared(self) -> dict[str, dict[str, tuple[str, ...]]]:
        lent = {"head": {"table": ("stem", "word", "embedding")}} if self.head == VOCAB else {}
        if self.options.form.relative is not None:
            lent |= {name: {"relative": ("stem", "relative")} for name in self.units() if name.startswith("block_")}
        return lent


def encoder_port(
    options: EncoderOptions,
    *,
    outputs: int,
    head: str = POOLED,
    kind: type[Family] = Encoder,
    axes: Rules[int] = (),
) -> Port:
    """The port of an encoder of texts.

    Args:
      options: of the family.
      outputs: outputs of the head; of no account for a head of another width, `vocab` and `embedding`.
      head: `pooled`; `token` for outputs at every token; `vocab` for the scores of every token of the vocabulary there,
        neither of which pools; `embedding` for what was pooled itself.
      kind: the module's class.
      axes: input axes of kernels that other families don't have.

    Raises:
      InputError: no outputs.
    """
    return family_port(
        kind,
        options,
        outputs=options.vocab if head == VOCAB else outputs,
        head=head,
        output_layer="head" if head == VOCAB else "head/out",
        input_axes=(*axes, (r".*/attn/out/kernel", 2), (r".*/kernel", 1)),
        no_decay=((r".*/(bias|scale|relative)", 0.0), (".*", 1.0)),
        tensor_axes=(*BLOCK_TENSOR_AXES, (r"stem/word/embedding", 0), (".*", None)),
    )

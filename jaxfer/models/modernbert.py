"""ModernBERT: an encoder with rotary positions, gated MLPs and local attention (Warner et al., 2024, arXiv:2412.13663).

| network          | width | layers | heads | mlp_width |
|------------------|-------|--------|-------|-----------|
| modernbert-base  | 768   | 22     | 12    | 1152      |
| modernbert-large | 1024  | 28     | 16    | 2624      |
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.models import text
from jaxfer.models.heads import EMBEDDING, POOLED, TOKEN, VOCAB
from jaxfer.models.layers import Dense, like
from jaxfer.models.options import choice, option, positive, rate, size
from jaxfer.models.port import Port
from jaxfer.models.text import pooled_tokens
from jaxfer.models.transformer import ACTIVATIONS, Block, Rotary, Spec, layer_norm

HEADS = text.HEADS


@dataclass(frozen=True, kw_only=True)
class Options(text.EncoderOptions):
    """The published size is the default: modernbert-base.

    Attributes:
      pool: `pooler` is the prediction head, a dense layer and a norm, on what `classifier_pooling` gives.
      classifier_pooling: `cls` (the first token) or `mean`.
      classifier_activation: of the prediction head.
      classifier_bias: whether its dense layer has a bias.
      decoder_bias: whether the scores of the vocabulary have one.
      norm_bias: whether norms have biases.
      bias: whether the dense layers of the blocks have.
      window: tokens that local attention spans, half of them on each side.
      global_every: of so many blocks the first has global attention, the others local one.
      theta: base of the rotary wavelengths of global attention.
      local_theta: the same of local attention.
      dropout: rate after the embeddings.
      attention_dropout: rate on the attention weights and after the attention output; None takes `dropout`.
      mlp_dropout: rate after the MLP's gate.
    """

    vocab: int = size(50368)
    positions: int = size(8192)
    layers: int = size(22)
    mlp_width: int = size(1152)
    epsilon: float = positive(1e-5)
    classifier_pooling: str = choice("cls", ("cls", "mean"))
    classifier_activation: str = choice("gelu", tuple(ACTIVATIONS))
    classifier_bias: bool = option(False)
    decoder_bias: bool = option(True)
    norm_bias: bool = option(False)
    bias: bool = option(False)
    window: int = size(128)
    global_every: int = size(3)
    theta: float = positive(160000.0)
    local_theta: float = positive(10000.0)
    mlp_dropout: float = rate(0.0)

    form: ClassVar[text.Form] = text.Form(order="pre")

    def check(self) -> None:
        super().check()
        if self.width // self.heads % 2:
            raise InputError(
                f"a head must have an even number of channels to be turned, found {self.width // self.heads}"
            )
        if self.window < 2:
            raise InputError(f"window must be at least 2, a token on each side, found {self.window}")

    def layer(self, i: int) -> Spec:
        """Of a block."""
        local, dropout = bool(i % self.global_every), self.attention_dropout
        return Spec(
            heads=self.heads,
            mlp_width=self.mlp_width,
            norm_bias=self.norm_bias,
            norm_first=i > 0,
            epsilon=self.epsilon,
            activation=self.activation,
            gated=True,
            bias=self.bias,
            qkv_bias=self.bias,
            window=self.window // 2 if local else 0,
            rotary=Rotary(theta=self.local_theta if local else self.theta),
            attention_dropout=self.dropout if dropout is None else dropout,
            out_dropout=self.dropout if dropout is None else dropout,
            mlp_dropout=self.mlp_dropout,
        )


class Stem(nn.Module):
    """Token ids to embeddings: [batch, length] int32 -> [batch, length, width], normed."""

    options: Options

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, **side: Any) -> jax.Array:
        options, init = self.options, nn.initializers.normal(0.02)
        y = nn.Embed(options.vocab, options.width, embedding_init=init, name="word")(x)
        y = layer_norm(options.epsilon, "norm", bias=options.norm_bias)(y)
        return nn.Dropout(options.dropout, name="drop")(y, deterministic=not train)


class Prediction(nn.Module):
    """A dense layer, its activation and a norm: [..., width] -> the same."""

    options: Options

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        options = self.options
        y = Dense(x.shape[-1:], use_bias=options.classifier_bias, name="dense")(x)
        y = ACTIVATIONS[options.classifier_activation](y)
        return layer_norm(options.epsilon, "norm", bias=options.norm_bias)(y)


def _last(options: Options) -> nn.LayerNorm:
    """The norm after the last block, which is the head's so that blocks pass on what they add up."""
    return layer_norm(options.epsilon, "norm", bias=options.norm_bias)


class Head(text.Head):
    """The last norm, the prediction head on a pooling of the tokens or that pooling alone, and the output layer."""

    options: Options

    @nn.nowrap
    def pooled(self, x: jax.Array, attention_mask: jax.Array, train: bool) -> jax.Array:
        options, x = self.options, _last(self.options)(x)
        if options.pool != "pooler":
            return pooled_tokens(x, attention_mask, options.pool)
        return Prediction(options, name="prediction")(pooled_tokens(x, attention_mask, options.classifier_pooling))


class TokenHead(nn.Module):
    """The last norm, the prediction head and the output layer at every token: [batch, length, outputs]."""

    outputs: int
    options: Options

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, **side: Any) -> jax.Array:
        x = Prediction(self.options, name="prediction")(_last(self.options)(x))
        x = nn.Dropout(self.options.drop_classifier, name="drop")(x, deterministic=not train)
        return Dense((self.outputs,), name="out")(x)


class Scores(nn.Module):
    """The prediction head and products with the word embedding: [batch, length, width] -> [batch, length, vocab]."""

    options: Options

    @nn.compact
    def __call__(self, x: jax.Array, table: jax.Array) -> jax.Array:
        y = Prediction(self.options, name="prediction")(x)
        y = jnp.einsum("blw,vw->blv", y, like(table, y))
        if not self.options.decoder_bias:
            return y
        return y + like(self.param("bias", nn.initializers.zeros, table.shape[:1]), y)


class VocabHead(nn.Module):
    """The last norm and the scores of every token of the vocabulary; `table` [vocab, width] is the word embedding."""

    options: Options

    @nn.compact
    def __call__(self, x: jax.Array, *, table: jax.Array, train: bool, **side: Any) -> jax.Array:
        return Scores(self.options, name="scores")(_last(self.options)(x), table)


class ModernBert(text.Encoder):
    """The chain stem, block_0 ... block_{layers-1}, head."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        options = self.options
        blocks = {f"block_{i}": functools.partial(Block, options.layer(i)) for i in range(options.layers)}
        head = functools.partial(Head, 0 if self.head == EMBEDDING else self.outputs, options)
        if self.head == TOKEN:
            head = functools.partial(TokenHead, self.outputs, options)
        if self.head == VOCAB:
            head = functools.partial(VocabHead, options)
        return {"stem": functools.partial(Stem, options), **blocks, "head": head}


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """A ModernBERT; see `encoder_port`."""
    made = text.encoder_port(options, outputs=outputs, head=head, kind=ModernBert)
    # A new head over the vocabulary keeps the last norm.
    return dataclasses.replace(made, head="head/scores") if head == VOCAB else made


TINY = {
    "": dict(
        **dict(vocab=23, width=12, layers=2, heads=3, mlp_width=20, positions=9, max_length=7),
        **dict(window=4, global_every=2, theta=50.0, local_theta=10.0),
    )
}

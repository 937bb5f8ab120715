"""Causal decoders of texts: the stem, the heads and the chain that GPT-2, Llama and their successors share.

A family adds its options, and says by them which `Spec` each block has; `jaxfer.models.transformer` has the blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.models.family import Family, family_port
from jaxfer.models.heads import EMBEDDING, NEXT, POOLED, TOKEN
from jaxfer.models.layers import BLOCK_TENSOR_AXES, Dense, like
from jaxfer.models.options import TextOptions, choice, option, positive, rate, size
from jaxfer.models.port import Port
from jaxfer.models.text import POOLS, pooled_tokens
from jaxfer.models.transformer import ACTIVATIONS, Block, Spec, norm

HEADS = (POOLED, TOKEN, NEXT, EMBEDDING)
LAST = "lasttoken"


@dataclass(frozen=True, kw_only=True)
class DecoderOptions(TextOptions):
    """
    Attributes:
      width: channels of a token.
      layers: transformer blocks.
      heads: attention heads.
      mlp_width: hidden channels of the MLP.
      pool: what a head of whole texts reads: `lasttoken`, as transformers' classifiers do, `mean` over the tokens, or
        another of sentence-transformers' poolings.
      normalize: whether that is scaled to length 1 (L2).
      activation: of the MLP, one of `ACTIVATIONS`.
      epsilon: of every norm.
      tied: whether the output layer over the vocabulary is the word embedding.
      pad: id of the padding token that an exported config.json states; transformers finds the end of a text by it.
      dropout: rate after the embeddings and at the end of each branch.
      attention_dropout: rate on the attention weights.
    """

    width: int = size(768)
    layers: int = size(12)
    heads: int = size(12)
    mlp_width: int = size(3072)
    pool: str = choice(LAST, POOLS[1:])
    normalize: bool = option(False)
    activation: str = choice("silu", tuple(ACTIVATIONS))
    epsilon: float = positive(1e-6)
    tied: bool = option(True)
    pad: int = option(0, inputs=True)
    dropout: float = rate(0.0)
    attention_dropout: float = rate(0.0)

    def check(self) -> None:
        super().check()
        if not 0 <= self.pad < self.vocab:
            raise InputError(f"pad must be a token below vocab={self.vocab}, found {self.pad}")

    @property
    def places(self) -> bool:
        """Whether the stem adds learned positions."""
        return False

    @property
    def gain(self) -> float:
        """By which the embeddings are scaled."""
        return 1.0

    def spec(self, layer: int) -> Spec:
        """Of a block."""
        raise NotImplementedError


class Stem(nn.Module):
    """Token ids to embeddings: [batch, length] int32 -> [batch, length, width].

    `places` int32 [batch, length] are the tokens' in their texts; None: from 0 on.
    """

    options: DecoderOptions

    @nn.compact
    def __call__(self, x: jax.Array, *, places: jax.Array | None = None, train: bool, **side: Any) -> jax.Array:
        options, init = self.options, nn.initializers.normal(0.02)
        y = nn.Embed(options.vocab, options.width, embedding_init=init, name="word")(x)
        y = y * options.gain if options.gain != 1.0 else y
        if options.places:
            places = jnp.arange(x.shape[1]) if places is None else places
            y = y + nn.Embed(options.positions, options.width, embedding_init=init, name="position")(places)
        return nn.Dropout(options.dropout, name="drop")(y, deterministic=not train)


class Head(nn.Module):
    """The last norm, a pooling of the tokens, and the output layer without a bias.

    Attributes:
      outputs: of the output layer; 0 for none: what was pooled is the output.
    """

    outputs: int
    options: DecoderOptions

    @nn.compact
    def __call__(self, x: jax.Array, *, attention_mask: jax.Array, train: bool, **side: Any) -> jax.Array:
        x = norm(self.options.spec(0), "norm")(x)
        pooled = pooled_tokens(x, attention_mask, self.options.pool)
        if self.options.normalize:
            square = (pooled.astype(jnp.float32) ** 2).sum(-1, keepdims=True)
            pooled = (pooled / jnp.sqrt(jnp.maximum(square, 1e-24))).astype(pooled.dtype)
        return Dense((self.outputs,), use_bias=False, name="out")(pooled) if self.outputs else pooled


class TokenHead(nn.Module):
    """The last norm and the output layer at every token: [batch, length, width] -> [batch, length, outputs]."""

    outputs: int
    options: DecoderOptions

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, **side: Any) -> jax.Array:
        return Dense((self.outputs,), name="out")(norm(self.options.spec(0), "norm")(x))


class NextHead(nn.Module):
    """The last norm and the scores of every token to come next: [batch, length, width] -> [batch, length, vocab].

    `table` [vocab, width] is the word embedding where the output layer is tied to it, which this only reads.
    """

    options: DecoderOptions

    @nn.compact
    def __call__(self, x: jax.Array, *, table: jax.Array | None = None, train: bool, **side: Any) -> jax.Array:
        x = norm(self.options.spec(0), "norm")(x)
        if table is None:
            return Dense((self.options.vocab,), use_bias=False, name="out")(x)
        return jnp.einsum("blw,vw->blv", x, like(table, x))


class Decoder(Family):
    """The chain stem, block_0 ... block_{layers-1}, head; a token sees none after it."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        options = self.options
        blocks = {f"block_{i}": functools.partial(Block, options.spec(i)) for i in range(options.layers)}
        head = functools.partial(Head, 0 if self.head == EMBEDDING else self.outputs, options)
        if self.head == TOKEN:
            head = functools.partial(TokenHead, self.outputs, options)
        if self.head == NEXT:
            head = functools.partial(NextHead, options)
        return {"stem": functools.partial(Stem, options), **blocks, "head": head}

    @nn.nowrap
    def shared(self) -> dict[str, dict[str, tuple[str, ...]]]:
        lent = self.head == NEXT and self.options.tied
        return {"head": {"table": ("stem", "word", "embedding")}} if lent else {}


def decoder_port(options: DecoderOptions, *, outputs: int, head: str = POOLED) -> Port:
    """The port of a causal decoder.

    Args:
      options: of the family.
      outputs: outputs of the head; of no account for a head of another width, `next` and `embedding`.
      head: `pooled`; `token` for outputs at every token; `next` for the scores of the token after each, neither of
        which pools; `embedding` for what was pooled itself.

    Raises:
      InputError: no outputs.
    """
    return family_port(
        Decoder,
        options,
        outputs=options.vocab if head == NEXT else outputs,
        head=head,
        output_layer="head" if head == NEXT else "head/out",
        input_axes=((r".*/attn/out/kernel", 2), (r".*/kernel", 1)),
        tensor_axes=(*BLOCK_TENSOR_AXES, (r"stem/word/embedding", 0), (".*", None)),
    )

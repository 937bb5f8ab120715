"""Encoder-decoders as one chain: the encoder, its last norm, the decoder and a head over its vocabulary.

`encoder_stem`, `encoder_block_i` and `encoder_norm` pass on an array, the memory; `decoder_stem` and the decoder's
blocks pass on {"memory", "decoder"}; the last block gives the decoder's tokens alone. The encoder with another head
is a model of its own, whose units have the same names.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax

from jaxfer.data.encodings.target import TargetEncoding
from jaxfer.errors import InputError
from jaxfer.models.attention import DotProductAttention
from jaxfer.models.heads import SEQ2SEQ
from jaxfer.models.layers import BLOCK_TENSOR_AXES, Dense
from jaxfer.models.options import Options, option, size
from jaxfer.models.transformer import Attention, Mlp, Spec, norm

Stream = Mapping[str, jax.Array]  # {"memory": [batch, source, width], "decoder": [batch, target, width]}

INPUT_AXES = ((r".*/(attn|cross)/out/kernel", 2), (r".*/kernel", 1))
CROSS_TENSOR_AXES = tuple((path.replace("/attn/", "/cross/"), axis) for path, axis in BLOCK_TENSOR_AXES[:3])


class CrossAttention(nn.Module):
    """Attention of the decoder's tokens to the memory: [batch, target, width] -> the same."""

    spec: Spec

    @nn.compact
    def __call__(self, x: jax.Array, memory: jax.Array, mask: jax.Array | None, *, train: bool = False) -> jax.Array:
        """`mask` [batch, source] is positive at the memory's tokens; None sees all."""
        spec, width = self.spec, x.shape[-1]
        head = spec.head_width or width // spec.heads
        biases = (spec.qkv_bias,) * 3 if isinstance(spec.qkv_bias, bool) else spec.qkv_bias
        query, key, value = (
            Dense((spec.heads, head), use_bias=bias, name=name)(read)
            for name, bias, read in zip(("query", "key", "value"), biases, (x, memory, memory), strict=True)
        )
        drop = None
        if train and spec.attention_dropout:
            drop = functools.partial(nn.Dropout(spec.attention_dropout, name="drop"), deterministic=False)
        # A stated scale keeps fused kernels away, which take as many queries as keys.
        scale = spec.scale or head**-0.5
        mixed = DotProductAttention(name="mix")(query, key, value, mask, scale=scale, drop=drop)
        return Dense((width,), inputs=2, use_bias=spec.bias, name="out")(mixed)


class DecoderBlock(nn.Module):
    """Self-attention without later tokens, attention to the memory and the MLP, pre-norm, each beside its input.

    Attributes:
      spec: of the block; self-attention is causal.
      last: whether the decoder's tokens [batch, target, width] are all that it gives.
    """

    spec: Spec
    last: bool = False

    @nn.compact
    def __call__(
        self,
        x: Stream,
        *,
        attention_mask: jax.Array | None = None,
        relative: jax.Array | None = None,
        train: bool,
        **side: Any,
    ) -> Stream | jax.Array:
        spec, memory, y = self.spec, x["memory"], x["decoder"]

        def ended(y: jax.Array, name: str) -> jax.Array:
            return nn.Dropout(spec.dropout, name=f"drop_{name}")(y, deterministic=not train)

        y = y + ended(Attention(spec, name="attn")(norm(spec, "norm_1")(y), relative=relative, train=train), "1")
        crossed = CrossAttention(spec, name="cross")(norm(spec, "norm_cross")(y), memory, attention_mask, train=train)
        y = y + ended(crossed, "cross")
        y = y + ended(Mlp(spec, name="mlp")(norm(spec, "norm_2")(y), train=train), "2")
        return y if self.last else {"memory": memory, "decoder": y}


class EncoderNorm(nn.Module):
    """The encoder's last norm and, where it `drops`, its dropout: [batch, source, width] -> the memory."""

    spec: Spec
    drops: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, **side: Any) -> jax.Array:
        x = norm(self.spec, "norm")(x)
        return nn.Dropout(self.spec.dropout, name="drop")(x, deterministic=not train) if self.drops else x


@dataclass(frozen=True, kw_only=True)
class TargetOptions(Options):
    """How target texts are read and written; a mixin.

    Attributes:
      target_length: tokens at which targets are cut, and that are generated at most, the last one included.
      start: token that the decoder begins with.
      prefix: tokens that follow it in every text: Whisper's language and task.
      end: token that ends a text.
      pad: token that follows it.
      suppress: tokens that are never generated.
      begin_suppress: tokens that no generated text begins with.
    """

    target_length: int = size(64, training=True, inputs=True)
    start: int = option(0, inputs=True)
    prefix: tuple[int, ...] = option((), training=True, inputs=True)
    end: int = option(1, inputs=True)
    pad: int = option(0, inputs=True)
    suppress: tuple[int, ...] = option((), training=True, inputs=True)
    begin_suppress: tuple[int, ...] = option((), training=True, inputs=True)

    def targets(self, column: str) -> TargetEncoding:
        """How targets beside this input are read."""
        for name, token in (("start", self.start), ("end", self.end), ("pad", self.pad), *_named(self.prefix)):
            if not isinstance(token, int) or not 0 <= token < self.vocab:
                raise InputError(f"{name} must be a token below vocab={self.vocab}, found {token!r}")
        if self.target_length < len(self.prefix) + 2:
            least = len(self.prefix) + 2
            raise InputError(
                f"target_length must be at least {least}, found {self.target_length}: prefix, text and end"
            )
        return TargetEncoding(
            tokenizer=self.tokenizer,
            tokenizer_sha256=self.tokenizer_sha256,
            vocab=self.vocab,
            max_length=self.target_length,
            start=self.start,
            prefix=self.prefix,
            end=self.end,
            pad=self.pad,
            column=column,
        )


def _named(prefix: tuple[int, ...]) -> list[tuple[str, int]]:
    return [(f"prefix[{i}]", token) for i, token in enumerate(prefix)]


def depths(encoder: int, decoder: int, head: str) -> tuple[int, ...] | None:
    """Of the units, from the head: both trunks end beside it, so that blocks of each lie at every depth.

    Args:
      encoder: its blocks.
      decoder: likewise.
      head: kind of the head; without a decoder depths are places in the chain.
    """
    return (*range(encoder + 1, 0, -1), 1, *range(decoder + 1, 0, -1), 0) if head == SEQ2SEQ else None

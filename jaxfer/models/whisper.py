"""Whisper: speech to text (Radford et al., 2022, arXiv:2212.04356), its encoder and its decoder.

| network  | width | layers | heads | mlp_width | mels | vocab                     |
|----------|-------|--------|-------|-----------|------|---------------------------|
| tiny     | 384   | 4      | 6     | 1536      | 80   | 51,865 (tiny.en 51,864)   |
| base     | 512   | 6      | 8     | 2048      | 80   | likewise                  |
| small    | 768   | 12     | 12    | 3072      | 80   | likewise                  |
| medium   | 1024  | 24     | 16    | 4096      | 80   | likewise                  |
| large-v3 | 1280  | 32     | 20    | 5120      | 128  | 51,866                    |

`whisper_encoder` is the encoder that transformers' classifiers have. With another head than `seq2seq` this is the
encoder alone too, under the names that its units have beside the decoder.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.models import seq2seq, whisper_encoder
from jaxfer.models.chain import linear_rates
from jaxfer.models.family import Family, family_port
from jaxfer.models.heads import EMBEDDING, POOLED, SEQ2SEQ
from jaxfer.models.layers import BLOCK_TENSOR_AXES, Dense, like
from jaxfer.models.options import option, size
from jaxfer.models.port import Port
from jaxfer.models.seq2seq import DecoderBlock, EncoderNorm, TargetOptions
from jaxfer.models.transformer import Block, Spec, norm
from jaxfer.models.whisper_encoder import EPSILON

HEADS = (POOLED, EMBEDDING, SEQ2SEQ)


@dataclass(frozen=True, kw_only=True)
class Options(TargetOptions, whisper_encoder.Options):
    """Those of tiny.en are the defaults; the module's table has the published sizes.

    Attributes:
      vocab: rows of the token embedding.
      decoder_layers: blocks of the decoder; 0: as many as of the encoder.
      decoder_heads: heads of the decoder; 0: likewise.
      decoder_mlp_width: hidden channels of the decoder's MLPs; 0: likewise.
      target_positions: the longest text, in tokens.
      scaled: whether the embeddings are scaled by the square root of the width.
      tokenizer: folder of the checkpoint's tokenizer.
      tokenizer_sha256: what its files must hash to; empty takes them as they are.
    """

    vocab: int = size(51864)
    decoder_layers: int = option(0)
    decoder_heads: int = option(0)
    decoder_mlp_width: int = option(0)
    target_positions: int = size(448)
    scaled: bool = option(False)
    start: int = option(50257, inputs=True)
    prefix: tuple[int, ...] = option((50362,), training=True, inputs=True)  # <|notimestamps|>
    end: int = option(50256, inputs=True)
    pad: int = option(50256, inputs=True)
    tokenizer: str = option("", inputs=True)
    tokenizer_sha256: str = option("", inputs=True)

    def check(self) -> None:
        super().check()
        if self.projection:
            raise InputError("projection is of transformers' classifiers; use the model 'whisper_encoder'")
        for name in ("decoder_layers", "decoder_heads", "decoder_mlp_width"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be positive, or 0 for the encoder's, found {getattr(self, name)}")
        if self.width % (self.decoder_heads or self.heads):
            raise InputError(f"decoder_heads must divide the width {self.width}, found {self.decoder_heads}")
        if self.target_length > self.target_positions:
            raise InputError(
                f"target_length must be at most the {self.target_positions} positions of the decoder, found "
                f"{self.target_length}"
            )
        self.targets("audio")

    @property
    def decoders(self) -> int:
        """Blocks of the decoder."""
        return self.decoder_layers or self.layers

    @property
    def spec(self) -> Spec:
        """Of the encoder's blocks."""
        return Spec(
            heads=self.heads,
            mlp_width=self.mlp_width,
            epsilon=EPSILON,
            qkv_bias=(True, False, True),
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            mlp_dropout=self.activation_dropout,
        )

    @property
    def decoder_spec(self) -> Spec:
        """Of the decoder's."""
        heads, hidden = self.decoder_heads or self.heads, self.decoder_mlp_width or self.mlp_width
        return dataclasses.replace(self.spec, heads=heads, mlp_width=hidden, causal=True)


class DecoderStem(nn.Module):
    """The memory, and the embeddings of the decoder's tokens with learned positions.

    `places` int32 [batch, target] are the tokens' in their texts; None: from 0 on.
    """

    options: Options

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        decoder_input_ids: jax.Array,
        places: jax.Array | None = None,
        train: bool,
        **side: Any,
    ) -> seq2seq.Stream:
        options, init = self.options, nn.initializers.normal(0.02)
        y = nn.Embed(options.vocab, options.width, embedding_init=init, name="word")(decoder_input_ids)
        y = y * options.width**0.5 if options.scaled else y
        places = jnp.arange(decoder_input_ids.shape[1]) if places is None else places
        y = y + nn.Embed(options.target_positions, options.width, embedding_init=init, name="position")(places)
        y = nn.Dropout(options.dropout, name="drop")(y, deterministic=not train)
        return {"memory": x, "decoder": y.astype(x.dtype)}


class Head(nn.Module):
    """The decoder's last norm and the products with its embeddings, `table` [vocab, width], which this only reads."""

    options: Options

    @nn.compact
    def __call__(self, x: jax.Array, *, table: jax.Array, train: bool, **side: Any) -> jax.Array:
        x = norm(self.options.spec, "norm")(x)
        return jnp.einsum("blw,vw->blv", x, like(table, x))


class PooledHead(nn.Module):
    """The mean over time and the output layer; the mean itself for 0 outputs."""

    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, **side: Any) -> jax.Array:
        x = x.mean(1)
        return Dense((self.outputs,), name="out")(x) if self.outputs else x


class Whisper(Family):
    """The units of `jaxfer.models.seq2seq`, or the encoder's and a head."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        options, part = self.options, functools.partial
        rates = linear_rates(options.stochastic_depth, options.layers)
        blocks = (part(Block, dataclasses.replace(options.spec, drop_rate=rate)) for rate in rates)
        encoder = {
            "encoder_stem": part(whisper_encoder.Stem, options.width, options.dropout),
            **{f"encoder_block_{i}": block for i, block in enumerate(blocks)},
            "encoder_norm": part(EncoderNorm, options.spec, drops=False),
        }
        if self.head != SEQ2SEQ:
            return {**encoder, "head": part(PooledHead, 0 if self.head == EMBEDDING else self.outputs)}
        last = options.decoders - 1
        decoder = {f"decoder_block_{i}": part(DecoderBlock, options.decoder_spec, i == last) for i in range(last + 1)}
        return {**encoder, "decoder_stem": part(DecoderStem, options), **decoder, "head": part(Head, options)}

    @nn.nowrap
    def shared(self) -> dict[str, dict[str, tuple[str, ...]]]:
        return {"head": {"table": ("decoder_stem", "word", "embedding")}} if self.head == SEQ2SEQ else {}


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """A Whisper: `seq2seq` for encoder and decoder; `pooled`, or `embedding` for the mean over time, for the encoder
    alone."""
    decodes = head == SEQ2SEQ
    return family_port(
        Whisper,
        options,
        outputs=options.vocab if decodes else outputs,
        head=head,
        output_layer="head" if decodes else "head/out",
        encodings=(options.encoding, *((options.targets("audio"),) if decodes else ())),
        input_axes=((r"encoder_stem/conv_\d/kernel", 3), *seq2seq.INPUT_AXES),
        tensor_axes=(
            *BLOCK_TENSOR_AXES,
            (r"encoder_stem/conv_\d/kernel", 3),
            *((*seq2seq.CROSS_TENSOR_AXES, (r"decoder_stem/word/embedding", 0)) if decodes else ()),
            (".*", None),
        ),
        depths=seq2seq.depths(options.layers, options.decoders, head),
    )


_SMALL = dict(width=12, layers=2, heads=3, mlp_width=20, positions=9, rate=8000, seconds=0.09, mels=7)
_WRITTEN = dict(vocab=23, target_positions=9, target_length=6, start=1, prefix=(4, 5), end=2, pad=2)
TINY = {"": {**_SMALL, **_WRITTEN}}

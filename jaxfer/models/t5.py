"""T5: text to text (Raffel et al., 2019, arXiv:1910.10683), its version 1.1, and mT5 (arXiv:2010.11934).

Pre-norm RMSNorm, no biases, scores without a scale, distances in buckets whose table all blocks of a trunk share.

| network    | vocab   | width | layers | heads | head_width | mlp_width | gated | tied |
|------------|---------|-------|--------|-------|------------|-----------|-------|------|
| T5-small   | 32,128  | 512   | 6      | 8     | 64         | 2048      | no    | yes  |
| T5-base    | 32,128  | 768   | 12     | 12    | 64         | 3072      | no    | yes  |
| T5-large   | 32,128  | 1024  | 24     | 16    | 64         | 4096      | no    | yes  |
| T5-1.1-s   | 32,128  | 512   | 8      | 6     | 64         | 1024      | yes   | no   |
| mT5-small  | 250,112 | 512   | 8      | 6     | 64         | 1024      | yes   | no   |
| Flan-T5-b  | 32,128  | 768   | 12     | 12    | 64         | 2048      | yes   | no   |

With another head than `seq2seq` it is the encoder alone.
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
from jaxfer.models import seq2seq, text
from jaxfer.models.family import Family, family_port
from jaxfer.models.heads import EMBEDDING, POOLED, SEQ2SEQ, TOKEN
from jaxfer.models.layers import BLOCK_TENSOR_AXES, Dense, like
from jaxfer.models.options import TextOptions, choice, option, positive, rate, size
from jaxfer.models.port import Port
from jaxfer.models.seq2seq import DecoderBlock, EncoderNorm, TargetOptions
from jaxfer.models.transformer import ACTIVATIONS, Block, Relative, Spec, norm

HEADS = (POOLED, TOKEN, EMBEDDING, SEQ2SEQ)


@dataclass(frozen=True, kw_only=True)
class Options(TargetOptions, text.EncoderOptions):
    """T5-small's are the defaults; the module's table has other published sizes.

    Attributes:
      positions: any length can be read: the buckets hold all distances.
      decoder_layers: blocks of the decoder; 0: as many as of the encoder.
      head_width: channels of a head, whatever the width.
      gated: whether the MLP is.
      buckets_of: distances are sorted into so many buckets.
      farthest: distances from here on share a bucket.
      tied: whether the output layer is the word embedding.
      scaled: whether the head's input is divided by the square root of the width: T5 1.0's.
    """

    vocab: int = size(32128)
    positions: int = size(16384)
    width: int = size(512)
    layers: int = size(6)
    decoder_layers: int = option(0)
    heads: int = size(8)
    head_width: int = size(64)
    mlp_width: int = size(2048)
    gated: bool = option(False)
    activation: str = choice("relu", tuple(ACTIVATIONS))
    buckets_of: int = size(32)
    farthest: int = size(128)
    tied: bool = option(True)
    scaled: bool = option(True)
    epsilon: float = positive(1e-6)
    pool: str = option("mean", lambda name, value: text._check_pool(value))
    classifier_dropout: float | None = rate(None)

    form: ClassVar[text.Form] = text.Form(order="pre")

    def check(self) -> None:
        TextOptions.check(self)
        if self.pool == "pooler" or self.projection < 0:
            raise InputError(
                f"a T5 pools by one of {', '.join(text.POOLS[1:])}, found pool={self.pool!r}, "
                f"projection={self.projection}"
            )
        if self.decoder_layers < 0:
            raise InputError(
                f"decoder_layers must be positive, or 0 for as many as layers, found {self.decoder_layers}"
            )
        if self.buckets_of % 4 or self.farthest <= self.buckets_of // 2:
            raise InputError(
                f"buckets_of must be a multiple of 4 and less than twice farthest={self.farthest}, found "
                f"{self.buckets_of}"
            )
        self.targets("text")

    @property
    def decoders(self) -> int:
        """Blocks of the decoder."""
        return self.decoder_layers or self.layers

    @property
    def spec(self) -> Spec:
        """Of the encoder's blocks."""
        return Spec(
            heads=self.heads,
            head_width=self.head_width,
            mlp_width=self.mlp_width,
            norm="rms",
            epsilon=self.epsilon,
            activation=self.activation,
            gated=self.gated,
            bias=False,
            qkv_bias=False,
            scale=1.0,
            relative=Relative(buckets=self.buckets_of, farthest=self.farthest),
            dropout=self.dropout,
            attention_dropout=self.dropout if self.attention_dropout is None else self.attention_dropout,
            mlp_dropout=self.dropout,
        )

    @property
    def decoder_spec(self) -> Spec:
        """Of the decoder's."""
        relative = Relative(buckets=self.buckets_of, farthest=self.farthest, both=False)
        return dataclasses.replace(self.spec, causal=True, relative=relative)


class Stem(nn.Module):
    """Token ids to embeddings: [batch, length] int32 -> [batch, length, width]; it holds the trunk's distances."""

    options: Options

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, **side: Any) -> jax.Array:
        options = self.options
        y = nn.Embed(options.vocab, options.width, embedding_init=nn.initializers.normal(1.0), name="word")(x)
        self.param("relative", nn.initializers.normal(0.02), (options.buckets_of, options.heads))  # the blocks read it
        return nn.Dropout(options.dropout, name="drop")(y, deterministic=not train)


class DecoderStem(nn.Module):
    """The memory, and the embeddings of the decoder's tokens by the encoder's `table` [vocab, width]."""

    options: Options

    @nn.compact
    def __call__(
        self, x: jax.Array, *, decoder_input_ids: jax.Array, table: jax.Array, train: bool, **side: Any
    ) -> seq2seq.Stream:
        options = self.options
        self.param("relative", nn.initializers.normal(0.02), (options.buckets_of, options.heads))
        y = jnp.take(like(table, x), decoder_input_ids, axis=0)
        return {"memory": x, "decoder": nn.Dropout(options.dropout, name="drop")(y, deterministic=not train)}


class Head(nn.Module):
    """The decoder's last norm and the scores of its vocabulary: [batch, target, width] -> [batch, target, vocab]."""

    options: Options

    @nn.compact
    def __call__(self, x: jax.Array, *, table: jax.Array | None = None, train: bool, **side: Any) -> jax.Array:
        options = self.options
        x = norm(options.spec, "norm")(x)
        x = nn.Dropout(options.dropout, name="drop")(x, deterministic=not train)
        x = x * options.width**-0.5 if options.scaled else x
        if table is None:
            return Dense((options.vocab,), use_bias=False, name="out")(x)
        return jnp.einsum("blw,vw->blv", x, like(table, x))


class T5(Family):
    """The units of `jaxfer.models.seq2seq`, or the encoder's and a head."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        options, part = self.options, functools.partial
        encoder = {
            "encoder_stem": part(Stem, options),
            **{f"encoder_block_{i}": part(Block, options.spec) for i in range(options.layers)},
            "encoder_norm": part(EncoderNorm, options.spec),
        }
        if self.head != SEQ2SEQ:
            head = part(text.Head, 0 if self.head == EMBEDDING else self.outputs, options)
            head = part(text.TokenHead, self.outputs, options.drop_classifier) if self.head == TOKEN else head
            return {**encoder, "head": head}
        last = options.decoders - 1
        blocks = {f"decoder_block_{i}": part(DecoderBlock, options.decoder_spec, i == last) for i in range(last + 1)}
        return {**encoder, "decoder_stem": part(DecoderStem, options), **blocks, "head": part(Head, options)}

    @nn.nowrap
    def shared(self) -> dict[str, dict[str, tuple[str, ...]]]:
        trunks = ((name, name.split("_")[0]) for name in self.units() if "_block_" in name)
        lent = {name: {"relative": (f"{trunk}_stem", "relative")} for name, trunk in trunks}
        if self.head == SEQ2SEQ:
            table = {"table": ("encoder_stem", "word", "embedding")}
            lent |= {"decoder_stem": table, **({"head": table} if self.options.tied else {})}
        return lent


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """A T5.

    Args:
      options: of the family.
      outputs: outputs of the head; of no account for `seq2seq` and `embedding`.
      head: `seq2seq` for encoder and decoder; `pooled`, `token` or `embedding` for the encoder alone.

    Raises:
      InputError: no outputs.
    """
    decodes = head == SEQ2SEQ
    return family_port(
        T5,
        options,
        outputs=options.vocab if decodes else outputs,
        head=head,
        output_layer="head" if decodes else "head/out",
        encodings=(options.encoding, *((options.targets("text"),) if decodes else ())),
        input_axes=seq2seq.INPUT_AXES,
        no_decay=((r".*/(bias|scale|relative)", 0.0), (".*", 1.0)),
        tensor_axes=(
            *BLOCK_TENSOR_AXES,
            *(seq2seq.CROSS_TENSOR_AXES if decodes else ()),
            (r"encoder_stem/word/embedding", 0),
            (".*", None),
        ),
        depths=seq2seq.depths(options.layers, options.decoders, head),
    )


_SMALL = dict(vocab=23, width=12, layers=2, heads=3, head_width=5, mlp_width=20, max_length=7, target_length=5)
TINY = {"": {**_SMALL, "buckets_of": 8, "farthest": 6}}

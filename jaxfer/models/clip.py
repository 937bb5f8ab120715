"""Two towers, of images and of texts, that meet in one space: CLIP (Radford et al., 2021, arXiv:2103.00020) and SigLIP
(Zhai et al., 2023, arXiv:2303.15343), with SigLIP 2 (Tschannen et al., 2025, arXiv:2502.14786).

The chain is image_stem, image_block_0 ..., image_head, text_stem, text_block_0 ..., text_head, head. From `text_stem`
on units pass {"image": [batch, projection], "text": [batch, length, width], of `text_head` [batch, projection]}.
Tables of published sizes are in `clip_vision`, `clip_text`, `siglip_vision` and `siglip_text`, the towers alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.data.encodings.text import TextEncoding
from jaxfer.errors import InputError
from jaxfer.models import clip_vision, siglip_vision, towers
from jaxfer.models.family import Family, family_port
from jaxfer.models.heads import PAIR, POOLED
from jaxfer.models.layers import BLOCK_TENSOR_AXES, Dense
from jaxfer.models.options import ImageOptions, TextOptions, choice, option, positive, rate, size
from jaxfer.models.port import Port
from jaxfer.models.siglip_text import check_one_length
from jaxfer.models.transformer import ACTIVATIONS, Spec

HEADS = (POOLED, PAIR)
SCALES = {"clip": math.log(1 / 0.07), "siglip": math.log(10)}  # what `logit_scale` begins with
BIAS = -10.0


class PairStem(nn.Module):
    """Adds the embedded text to the image's embedding."""

    vocab: int
    positions: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array, *, input_ids: jax.Array, train: bool, **side: Any) -> dict[str, jax.Array]:
        return {"image": x, "text": towers.embedded(input_ids, self.vocab, self.positions, self.width)}


class PairText(nn.Module):
    """The text's embedding in place of its tokens."""

    causal: bool
    epsilon: float
    projection: int

    @nn.compact
    def __call__(self, x: Any, *, attention_mask: jax.Array, train: bool, **side: Any) -> dict[str, jax.Array]:
        how = dict(causal=self.causal, epsilon=self.epsilon, projection=self.projection, bias=not self.causal)
        return {**x, "text": towers.pooled_text(x["text"], attention_mask, **how)}


class Head(nn.Module):
    """What is made of the two embeddings.

    Without outputs [batch, 2, width] float32: the products of the images' rows and the texts' are the logits of all
    pairs. An image's row is its embedding of length 1 times exp(logit_scale), a text's its embedding of length 1; with
    `logit_bias` a column follows that adds it. With outputs [batch, outputs]: a layer on both embeddings side by side.

    Attributes:
      most: of exp(logit_scale) in training; 0: any.
    """

    outputs: int
    form: str
    most: float
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Any, *, train: bool, **side: Any) -> jax.Array:
        image, text = x["image"], x["text"]
        if self.outputs:
            both = jnp.concatenate([image, text], -1)
            both = nn.Dropout(self.dropout, name="drop")(both, deterministic=not train)
            return Dense((self.outputs,), name="out")(both)
        image, text = (towers.unit(part.astype(jnp.float32)) for part in (image, text))
        scale = jnp.exp(self.param("logit_scale", nn.initializers.constant(SCALES[self.form]), (1,)))
        if train and self.most:  # the gradient passes, so that the scale can fall again
            scale = scale + jax.lax.stop_gradient(jnp.minimum(scale, self.most) - scale)
        image = image * scale
        if self.form == "siglip":
            bias = self.param("logit_bias", nn.initializers.constant(BIAS), (1,))
            column = jnp.ones((len(image), 1))
            image, text = jnp.concatenate([image, column * bias], -1), jnp.concatenate([text, column], -1)
        return jnp.stack([image, text], 1)


@dataclass(frozen=True, kw_only=True)
class Options(ImageOptions, TextOptions):
    """CLIP's ViT-B/32 is the default.

    Attributes:
      end: id of the token that ends texts, as transformers' config of CLIP states it: 2 for the highest id of a text.
      form: of the towers, `clip` or `siglip`; SigLIP 2 has SigLIP's.
      patch: side of the image's square patches, in pixels; must divide its height and width.
      image_width: channels of a token of an image.
      image_layers: transformer blocks.
      image_heads: attention heads; must divide the width.
      image_mlp_width: hidden channels of the MLP.
      image_activation: of the MLP.
      image_epsilon: of every LayerNorm.
      text_width: the same of the tower of texts, as are the following.
      text_layers: see `image_layers`.
      text_heads: see `image_heads`.
      text_mlp_width: see `image_mlp_width`.
      text_activation: see `image_activation`.
      text_epsilon: see `image_epsilon`.
      projection: channels of the space that images and texts share; of SigLIP the image's width.
      max_scale: the largest exp(logit_scale) in training; 0: any.
      dropout: rate at the end of each branch, and before a pooled output layer.
      attention_dropout: rate on attention's weights.
      stochastic_depth: drop rate of the last blocks' branches, linear in depth (arXiv:1603.09382).
    """

    vocab: int = size(49408)
    positions: int = size(77)
    max_length: int = size(77, training=True, inputs=True)
    end: int = option(49407, inputs=True)
    form: str = choice("clip", tuple(SCALES))
    patch: int = size(32)
    image_width: int = size(768)
    image_layers: int = size(12)
    image_heads: int = size(12)
    image_mlp_width: int = size(3072)
    image_activation: str = choice("quick_gelu", tuple(ACTIVATIONS))
    image_epsilon: float = positive(1e-5)
    text_width: int = size(512)
    text_layers: int = size(12)
    text_heads: int = size(8)
    text_mlp_width: int = size(2048)
    text_activation: str = choice("quick_gelu", tuple(ACTIVATIONS))
    text_epsilon: float = positive(1e-5)
    projection: int = size(512)
    max_scale: float = option(100.0, lambda name, value: _check_scale(value), training=True)
    dropout: float = rate(0.0)
    attention_dropout: float = rate(0.0)
    stochastic_depth: float = rate(0.0)
    interpolation: str = option("bicubic", inputs=True)

    @property
    def causal(self) -> bool:
        """Whether the text tower is."""
        return self.form == "clip"

    @functools.cached_property
    def text_encoding(self) -> TextEncoding:
        """How texts are read; SigLIP's all have one length, since its tower reads padding."""
        made = TextOptions.encoding.func(self)
        if self.causal:
            return made
        check_one_length(self.buckets, self.max_length)
        fields = dict(tokenizer=made.tokenizer, tokenizer_sha256=made.tokenizer_sha256, vocab=made.vocab, types=0)
        return TextEncoding(**fields, max_length=self.max_length, buckets=(self.max_length,))

    def check(self) -> None:
        self.text_encoding  # noqa: B018
        super().check()
        for tower in ("image", "text"):
            width, heads = getattr(self, f"{tower}_width"), getattr(self, f"{tower}_heads")
            if width % heads:
                raise InputError(f"{tower}_heads must divide {tower}_width, found {heads} and {width}")
        if self.image[0] % self.patch or self.image[1] % self.patch:
            raise InputError(
                f"patch must divide the image's height and width, found patch={self.patch} and image={self.image}"
            )
        if not self.causal and self.projection != self.image_width:
            raise InputError(
                f"projection must be SigLIP's image_width={self.image_width}, found {self.projection}: only its texts "
                "are projected"
            )

    def spec(self, tower: str) -> Spec:
        """Of the blocks of a tower."""
        return Spec(
            heads=getattr(self, f"{tower}_heads"),
            mlp_width=getattr(self, f"{tower}_mlp_width"),
            epsilon=getattr(self, f"{tower}_epsilon"),
            activation=getattr(self, f"{tower}_activation"),
            causal=tower == "text" and self.causal,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
        )


def _check_scale(value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
        raise InputError(f"max_scale must be a positive number, or 0 for none, found {value!r}")


class Clip(Family):
    """Both towers, one after the other, and the head."""

    @nn.nowrap
    def special(self) -> tuple[str, ...]:
        return ("cls",) if self.options.form == "clip" else ()

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        options, drop = self.options, self.options.stochastic_depth
        image, text = options.spec("image"), options.spec("text")
        if options.form == "clip":
            stem = functools.partial(clip_vision.Stem, options.patch, options.image_width, options.image_epsilon)
            top = functools.partial(clip_vision.Head, 0, "projection", options.image_epsilon, options.projection)
        else:
            stem = functools.partial(towers.PatchStem, options.patch, options.image_width)
            top = functools.partial(siglip_vision.Head, 0, "map", image)
        words = functools.partial(PairStem, options.vocab, options.positions, options.text_width)
        outputs = 0 if self.head == PAIR else self.outputs
        head = functools.partial(Head, outputs, options.form, options.max_scale, options.dropout)
        return {
            "image_stem": stem,
            **towers.blocks(image, options.image_layers, drop, "image_"),
            "image_head": top,
            "text_stem": words,
            **towers.blocks(text, options.text_layers, drop, "text_", part="text", masked=options.causal),
            "text_head": functools.partial(PairText, options.causal, options.text_epsilon, options.projection),
            "head": head,
        }


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """CLIP or SigLIP.

    Args:
      options: the family's.
      outputs: outputs of a pooled head.
      head: `pair` for the embeddings of image and text; `pooled` for a layer on both.
    """
    levels = tuple(n + 2 for n in (options.image_layers, options.text_layers))
    return family_port(
        Clip,
        options,
        outputs=outputs,
        head=head,
        encodings=(options.encoding, options.text_encoding),
        input_axes=towers.INPUT_AXES,
        no_decay=towers.NO_DECAY,
        tensor_axes=(*BLOCK_TENSOR_AXES, (r"text_stem/word/embedding", 0), (".*", None)),
        depths=(*(depth for level in levels for depth in range(level, 0, -1)), 0),
    )


_SMALL = dict(
    patch=3,
    image_width=12,
    image_layers=2,
    image_heads=3,
    image_mlp_width=20,
    image=(6, 9, 3),
    text_width=8,
    text_layers=1,
    text_heads=2,
    text_mlp_width=12,
    vocab=23,
    positions=7,
    max_length=7,
)
TINY = {"": {**_SMALL, "projection": 5}, "siglip": {**_SMALL, "form": "siglip", "projection": 12}}

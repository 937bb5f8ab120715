"""The towers of CLIP and SigLIP: their blocks, what reads a text, and SigLIP's attention pooling of an image."""

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
from jaxfer.models.chain import linear_rates
from jaxfer.models.family import Family, family_port
from jaxfer.models.heads import EMBEDDING, POOLED
from jaxfer.models.layers import BLOCK_TENSOR_AXES, Conv, Dense, kernel_init
from jaxfer.models.options import TextOptions, choice, option, positive, rate, size
from jaxfer.models.port import Port
from jaxfer.models.transformer import ACTIVATIONS, Block, Mlp, Spec, layer_norm

TEXT_HEADS = (POOLED, EMBEDDING)


def unit(x: jax.Array) -> jax.Array:
    """[..., width] scaled to length 1."""
    square = jnp.square(x.astype(jnp.float32)).sum(-1, keepdims=True)
    return (x / jnp.sqrt(jnp.maximum(square, 1e-24))).astype(x.dtype)


class TowerBlock(Block):
    """A block of one tower.

    Attributes:
      part: the part of what units pass on that it reads and replaces; empty: all of it.
      masked: whether attention leaves out padding of texts.
    """

    part: str = ""
    masked: bool = False

    @nn.compact
    def __call__(self, x: Any, *, attention_mask: jax.Array | None = None, train: bool, **side: Any) -> Any:
        mask = attention_mask if self.masked else None
        around = dict(attention_mask=mask, relative=None, rotations=None, places=None, train=train)
        y = self._block(x[self.part] if self.part else x, around)
        return {**x, self.part: y} if self.part else y


def blocks(spec: Spec, layers: int, rate: float, prefix: str = "", **how: Any) -> dict[str, Callable[..., nn.Module]]:
    """{unit name: constructor} of a tower's blocks; `rate`: the last one's drop rate, `how`: fields of `TowerBlock`."""
    return {
        f"{prefix}block_{i}": functools.partial(TowerBlock, dataclasses.replace(spec, drop_rate=drop), **how)
        for i, drop in enumerate(linear_rates(rate, layers))
    }


class PatchStem(nn.Module):
    """Images to tokens: [batch, h, w, c] -> [batch, patches, width], by row, without a class token."""

    patch: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, **side: Any) -> jax.Array:
        window = (self.patch,) * 2
        x = Conv(self.width, window, self.patch, use_bias=True, kernel_init=kernel_init, name="patch")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        return x + self.param("pos", nn.initializers.normal(0.02), (1, *x.shape[1:]))


class ProbeAttention(nn.Module):
    """Multi-head attention of one learned query: [batch, tokens, width] -> [batch, width]."""

    heads: int

    @nn.compact
    def __call__(self, probe: jax.Array, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        features = (self.heads, width // self.heads)
        query = Dense(features, name="query")(jnp.broadcast_to(probe.astype(x.dtype), (x.shape[0], 1, width)))
        key, value = Dense(features, name="key")(x), Dense(features, name="value")(x)
        # One query is no case of self-attention's kernels.
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32) * features[1] ** -0.5
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores).astype(x.dtype), value)
        return Dense((width,), inputs=2, name="out")(mixed)[:, 0]


class MapPool(nn.Module):
    """Attention pooling, "MAP": [batch, tokens, width] -> [batch, width] (Zhai et al., 2021, arXiv:2106.04560)."""

    spec: Spec

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, x.shape[-1]))
        x = ProbeAttention(self.spec.heads, name="attn")(probe, x)
        return x + Mlp(self.spec, name="mlp")(layer_norm(self.spec.epsilon, "norm")(x), train=train)


@dataclass(frozen=True, kw_only=True)
class TextTowerOptions(TextOptions):
    """
    Attributes:
      width: channels of a token.
      layers: transformer blocks.
      heads: attention heads; must divide the width.
      mlp_width: hidden channels of the MLP.
      projection: channels of the space that images and texts share; 0: the normed token itself is the embedding.
      normalize: whether the embedding is scaled to length 1.
      activation: of the MLP.
      epsilon: of every LayerNorm.
      dropout: rate at the end of each branch.
      attention_dropout: rate on attention's weights.
      stochastic_depth: drop rate of the last block's branches, linear in depth (arXiv:1603.09382).
    """

    width: int = size(512)
    layers: int = size(12)
    heads: int = size(8)
    mlp_width: int = size(2048)
    projection: int = option(512)
    normalize: bool = option(False)
    activation: str = choice("quick_gelu", tuple(ACTIVATIONS))
    epsilon: float = positive(1e-5)
    dropout: float = rate(0.0)
    attention_dropout: float = rate(0.0)
    stochastic_depth: float = rate(0.0)

    causal: ClassVar[bool] = True  # else every place sees every other, padding too, and the last place is pooled
    projection_bias: ClassVar[bool] = False

    def check(self) -> None:
        super().check()
        if self.width % self.heads:
            raise InputError(f"heads must divide the width, found width={self.width} and heads={self.heads}")
        if not isinstance(self.projection, int) or isinstance(self.projection, bool) or self.projection < 0:
            raise InputError(f"projection must be a positive integer, or 0 for none, found {self.projection!r}")

    @property
    def spec(self) -> Spec:
        """Of the blocks."""
        return Spec(
            heads=self.heads,
            mlp_width=self.mlp_width,
            epsilon=self.epsilon,
            activation=self.activation,
            causal=self.causal,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
        )

    @property
    def pooling(self) -> dict[str, Any]:
        """Arguments of `pooled_text`."""
        bias = self.projection_bias
        return dict(causal=self.causal, epsilon=self.epsilon, projection=self.projection, bias=bias)


def embedded(x: jax.Array, vocab: int, positions: int, width: int) -> jax.Array:
    """Token ids to embeddings of token and place, in the calling stem: int32 [batch, length] -> [..., width]."""
    y = nn.Embed(vocab, width, embedding_init=nn.initializers.normal(0.02), name="word")(x)
    place = nn.Embed(positions, width, embedding_init=nn.initializers.normal(0.01), name="position")
    return y + place(jnp.arange(x.shape[1]))


class TextStem(nn.Module):
    """Token ids to embeddings: int32 [batch, length] -> [batch, length, width]."""

    vocab: int
    positions: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, **side: Any) -> jax.Array:
        return embedded(x, self.vocab, self.positions, self.width)


def pooled_text(
    x: jax.Array, attention_mask: jax.Array, *, causal: bool, epsilon: float, projection: int, bias: bool
) -> jax.Array:
    """The normed last token and its projection, in the calling head: [batch, length, width] -> [batch, projection].

    A causal tower reads the last token of the text, which its tokenizer makes the end-of-text token; another one the
    last place, padding or not.
    """
    if causal:
        last = jnp.maximum(attention_mask.sum(1) - 1, 0)
        x = jnp.take_along_axis(x, last[:, None, None], 1)[:, 0]
    else:
        x = x[:, -1]
    x = layer_norm(epsilon, "norm")(x)
    return Dense((projection,), use_bias=bias, name="projection")(x) if projection else x


class TextHead(nn.Module):
    """The embedding and the output layer: [batch, length, width] -> [batch, outputs]; the embedding for 0 outputs."""

    outputs: int
    options: TextTowerOptions

    @nn.compact
    def __call__(self, x: jax.Array, *, attention_mask: jax.Array, train: bool, **side: Any) -> jax.Array:
        x = pooled_text(x, attention_mask, **self.options.pooling)
        x = unit(x) if self.options.normalize else x
        return Dense((self.outputs,), name="out")(x) if self.outputs else x


class TextTower(Family):
    """The chain stem, block_0 ... block_{layers-1}, head."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        options = self.options
        stem = functools.partial(TextStem, options.vocab, options.positions, options.width)
        inner = blocks(options.spec, options.layers, options.stochastic_depth, masked=options.causal)
        head = functools.partial(TextHead, 0 if self.head == EMBEDDING else self.outputs, options)
        return {"stem": stem, **inner, "head": head}


NO_DECAY = ((r".*/(bias|scale|cls|pos|probe|logit_scale|logit_bias)", 0.0), (".*", 1.0))
TEXT_INPUT_AXES = ((r".*/attn/out/kernel", 2), (r".*/kernel", 1))
INPUT_AXES = ((r"(image_)?stem/patch/kernel", 3), *TEXT_INPUT_AXES)


def text_tower_port(options: TextTowerOptions, *, outputs: int, head: str = POOLED) -> Port:
    """The port of a text tower alone.

    Args:
      options: the family's.
      outputs: outputs of the head.
      head: `pooled`, or `embedding` for the embedding itself.
    """
    return family_port(
        TextTower,
        options,
        outputs=outputs,
        head=head,
        input_axes=TEXT_INPUT_AXES,
        no_decay=NO_DECAY,
        tensor_axes=(*BLOCK_TENSOR_AXES, (r"stem/word/embedding", 0), (".*", None)),
    )

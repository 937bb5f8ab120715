"""CLIP's image encoder: a vision transformer with a norm before its blocks (Radford et al., 2021, arXiv:2103.00020).

| network  | patch  | width | layers | heads | mlp_width | projection |
|----------|--------|-------|--------|-------|-----------|------------|
| ViT-B/32 | 32     | 768   | 12     | 12    | 3072      | 512        |
| ViT-B/16 | 16     | 768   | 12     | 12    | 3072      | 512        |
| ViT-L/14 | 14     | 1024  | 24     | 16    | 4096      | 768        |
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
from jaxfer.models.chain import linear_rates
from jaxfer.models.family import Family, family_port
from jaxfer.models.heads import DENSE, EMBEDDING, POOLED
from jaxfer.models.layers import BLOCK_TENSOR_AXES, Conv, Dense, kernel_init
from jaxfer.models.options import ImageOptions, choice, option, positive, rate, size
from jaxfer.models.port import Port
from jaxfer.models.towers import unit
from jaxfer.models.transformer import ACTIVATIONS, Block, Spec, layer_norm
from jaxfer.models.vision import PatchHead

HEADS = (POOLED, DENSE, EMBEDDING)


class Stem(nn.Module):
    """Images to normed tokens: [batch, h, w, c] -> [batch, tokens, width]; the class token, then patches by row."""

    patch: int
    width: int
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, **side: Any) -> jax.Array:
        x = Conv(self.width, (self.patch,) * 2, self.patch, kernel_init=kernel_init, name="patch")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        token = self.param("cls", nn.initializers.zeros, (1, 1, self.width))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, self.width)), x], 1)
        x = x + self.param("pos", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        return layer_norm(self.epsilon, "norm")(x)


class Head(nn.Module):
    """The pool and the output layer: [batch, tokens, width] -> [batch, outputs]; the features for 0 outputs."""

    outputs: int
    pool: str
    epsilon: float
    projection: int
    normalize: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, **side: Any) -> jax.Array:
        x = x[:, 1:].mean(1) if self.pool == "mean" else layer_norm(self.epsilon, "norm")(x[:, 0])
        if self.pool == "projection":
            x = Dense((self.projection,), use_bias=False, name="projection")(x)
        x = unit(x) if self.normalize else x
        return Dense((self.outputs,), name="out")(x) if self.outputs else x


@dataclass(frozen=True, kw_only=True)
class Options(ImageOptions):
    """The module's table has the published sizes.

    Attributes:
      patch: side of the square patches, in pixels; must divide the image's height and width.
      width: channels of a token.
      layers: transformer blocks.
      heads: attention heads; must divide the width.
      mlp_width: hidden channels of the MLP.
      pool: what a pooled head reads. `cls`: the normed class token; `projection`: its projection to the space that
        images and texts share; `mean`: the mean of the patches without the final norm, as transformers'
        `CLIPForImageClassification` has it.
      projection: channels of that space.
      normalize: whether the pooled features are scaled to length 1, as they are compared with texts.
      activation: of the MLP; OpenAI's have `quick_gelu`, most of OpenCLIP `gelu`.
      dropout: rate at the end of each branch.
      attention_dropout: rate on attention's weights.
      stochastic_depth: drop rate of the last block's branches, linear in depth (arXiv:1603.09382).
      epsilon: of every LayerNorm.
    """

    patch: int = size(32)
    width: int = size(768)
    layers: int = size(12)
    heads: int = size(12)
    mlp_width: int = size(3072)
    pool: str = choice("cls", ("cls", "mean", "projection"))
    projection: int = size(512)
    normalize: bool = option(False)
    activation: str = choice("quick_gelu", tuple(ACTIVATIONS))
    dropout: float = rate(0.0)
    attention_dropout: float = rate(0.0)
    stochastic_depth: float = rate(0.0)
    epsilon: float = positive(1e-5)
    interpolation: str = option("bicubic", inputs=True)

    def check(self) -> None:
        super().check()
        if self.width % self.heads:
            raise InputError(f"heads must divide the width, found width={self.width} and heads={self.heads}")
        if self.image[0] % self.patch or self.image[1] % self.patch:
            raise InputError(
                f"patch must divide the image's height and width, found patch={self.patch} and image={self.image}"
            )


class ClipVision(Family):
    """The chain stem, block_0 ... block_{layers-1}, head."""

    @nn.nowrap
    def special(self) -> tuple[str, ...]:
        return ("cls",)

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        options = self.options
        spec = Spec(
            heads=options.heads,
            mlp_width=options.mlp_width,
            epsilon=options.epsilon,
            activation=options.activation,
            dropout=options.dropout,
            attention_dropout=options.attention_dropout,
        )
        blocks = {
            f"block_{i}": functools.partial(Block, dataclasses.replace(spec, drop_rate=rate))
            for i, rate in enumerate(linear_rates(options.stochastic_depth, options.layers))
        }
        stem = functools.partial(Stem, options.patch, options.width, options.epsilon)
        if self.dense():
            grid = tuple(side // options.patch for side in self.dense())
            head = functools.partial(PatchHead, self.outputs, self.dense(), grid=grid, epsilon=options.epsilon)
        else:
            pool = (options.pool, options.epsilon, options.projection, options.normalize)
            head = functools.partial(Head, self.outputs, *pool)
        return {"stem": stem, **blocks, "head": head}


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """CLIP's image encoder.

    Args:
      options: the family's.
      outputs: outputs of the head.
      head: `pooled`, `embedding` for the features it pools, or `dense` for outputs at every pixel of the input, which
        reads the normed patches.
    """
    return family_port(
        ClipVision,
        options,
        outputs=outputs,
        head=head,
        input_axes=((r"stem/patch/kernel", 3), (r".*/attn/out/kernel", 2), (r".*/kernel", 1)),
        no_decay=((r".*/(bias|scale|cls|pos)", 0.0), (".*", 1.0)),
        tensor_axes=(*BLOCK_TENSOR_AXES, (".*", None)),
    )


_SMALL = dict(patch=3, width=12, layers=2, heads=3, mlp_width=20, image=(6, 9, 3))
TINY = {
    "cls": _SMALL,
    "mean": {**_SMALL, "heads": 2, "pool": "mean"},
    "projection": {**_SMALL, "pool": "projection", "projection": 7, "activation": "gelu"},
}

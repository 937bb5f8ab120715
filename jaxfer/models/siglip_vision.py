"""SigLIP's image encoder: a vision transformer without a class token, pooled by attention (arXiv:2303.15343).

SigLIP 2 (Tschannen et al., 2025, arXiv:2502.14786) has the same encoder.

| network | patch  | width | layers | heads | mlp_width |
|---------|--------|-------|--------|-------|-----------|
| B/16    | 16     | 768   | 12     | 12    | 3072      |
| L/16    | 16     | 1024  | 24     | 16    | 4096      |
| So400m  | 14, 16 | 1152  | 27     | 16    | 4304      |
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax

from jaxfer.errors import InputError
from jaxfer.models import towers
from jaxfer.models.family import Family, family_port
from jaxfer.models.heads import DENSE, EMBEDDING, POOLED
from jaxfer.models.layers import BLOCK_TENSOR_AXES, Dense
from jaxfer.models.options import ImageOptions, choice, option, positive, rate, size
from jaxfer.models.port import Port
from jaxfer.models.transformer import ACTIVATIONS, Spec, layer_norm
from jaxfer.models.vision import PatchHead

HEADS = (POOLED, DENSE, EMBEDDING)


class Head(nn.Module):
    """The final norm, the pool and the output layer: [batch, tokens, width] -> [batch, outputs]; features for 0."""

    outputs: int
    pool: str
    spec: Spec
    normalize: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, **side: Any) -> jax.Array:
        x = layer_norm(self.spec.epsilon, "norm")(x)
        x = towers.MapPool(self.spec, name="map")(x, train=train) if self.pool == "map" else x.mean(1)
        x = towers.unit(x) if self.normalize else x
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
      pool: what a pooled head reads. `map`: the attention pooling that the encoder was trained with, in the space that
        images and texts share; `mean`: the mean of the normed patches, as transformers' `SiglipForImageClassification`
        has it.
      normalize: whether the pooled features are scaled to length 1, as they are compared with texts.
      activation: of the MLP.
      dropout: rate at the end of each branch.
      attention_dropout: rate on attention's weights.
      stochastic_depth: drop rate of the last block's branches, linear in depth (arXiv:1603.09382).
      epsilon: of every LayerNorm.
    """

    patch: int = size(16)
    width: int = size(768)
    layers: int = size(12)
    heads: int = size(12)
    mlp_width: int = size(3072)
    pool: str = choice("map", ("map", "mean"))
    normalize: bool = option(False)
    activation: str = choice("gelu_pytorch_tanh", tuple(ACTIVATIONS))
    dropout: float = rate(0.0)
    attention_dropout: float = rate(0.0)
    stochastic_depth: float = rate(0.0)
    epsilon: float = positive(1e-6)
    mean: tuple[float, ...] = option((0.5,), inputs=True)
    std: tuple[float, ...] = option((0.5,), inputs=True)
    interpolation: str = option("bicubic", inputs=True)

    def check(self) -> None:
        super().check()
        if self.width % self.heads:
            raise InputError(f"heads must divide the width, found width={self.width} and heads={self.heads}")
        if self.image[0] % self.patch or self.image[1] % self.patch:
            raise InputError(
                f"patch must divide the image's height and width, found patch={self.patch} and image={self.image}"
            )

    @property
    def spec(self) -> Spec:
        """Of the blocks, and of the attention pooling's MLP."""
        return Spec(
            heads=self.heads,
            mlp_width=self.mlp_width,
            epsilon=self.epsilon,
            activation=self.activation,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
        )


class SiglipVision(Family):
    """The chain stem, block_0 ... block_{layers-1}, head."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        options = self.options
        stem = functools.partial(towers.PatchStem, options.patch, options.width)
        blocks = towers.blocks(options.spec, options.layers, options.stochastic_depth)
        if self.dense():
            grid = tuple(side // options.patch for side in self.dense())
            head = functools.partial(PatchHead, self.outputs, self.dense(), grid=grid, epsilon=options.epsilon)
        else:
            outputs = 0 if self.head == EMBEDDING else self.outputs
            head = functools.partial(Head, outputs, options.pool, options.spec, options.normalize)
        return {"stem": stem, **blocks, "head": head}


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """SigLIP's image encoder.

    Args:
      options: the family's.
      outputs: outputs of the head.
      head: `pooled`, `embedding` for the features it pools, or `dense` for outputs at every pixel of the input, which
        reads the normed patches.
    """
    return family_port(
        SiglipVision,
        options,
        outputs=outputs,
        head=head,
        input_axes=towers.INPUT_AXES,
        no_decay=towers.NO_DECAY,
        tensor_axes=(*BLOCK_TENSOR_AXES, (".*", None)),
    )


_SMALL = dict(patch=3, width=12, layers=2, heads=3, mlp_width=20, image=(6, 9, 3))
TINY = {"map": _SMALL, "mean": {**_SMALL, "pool": "mean"}}

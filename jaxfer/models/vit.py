"""ViT: the pre-norm vision transformer (Dosovitskiy et al., 2020, arXiv:2010.11929).

| network  | width | layers | heads | mlp_width |
|----------|-------|--------|-------|-----------|
| ViT-Ti   | 192   | 12     | 3     | 768       |
| ViT-S    | 384   | 12     | 6     | 1536      |
| ViT-B    | 768   | 12     | 12    | 3072      |
| ViT-L    | 1024  | 24     | 16    | 4096      |
| ViT-H/14 | 1280  | 32     | 16    | 5120      |
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.models.chain import (
    Chain,
    check_choice,
    check_positive,
    check_rate,
    image_preprocessing,
    linear_rates,
)
from jaxfer.models.layers import Conv, Dense, kernel_init
from jaxfer.models.port import Port

POOLS = ("cls", "mean")


def layer_norm(epsilon: float, name: str) -> nn.LayerNorm:
    """Layer normalisation over the last axis; the two-pass variance is PyTorch's and does not cancel."""
    return nn.LayerNorm(epsilon, use_fast_variance=False, name=name)


class Stem(nn.Module):
    """Patches to tokens: [batch, h, w, c] -> [batch, tokens, width], row-major, the class token (if any) first."""

    patch: int
    width: int
    class_token: bool
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        size = (self.patch, self.patch)
        x = Conv(self.width, size, self.patch, use_bias=True, kernel_init=kernel_init, name="patch")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        if self.class_token:
            cls = self.param("cls", nn.initializers.zeros, (1, 1, self.width))
            x = jnp.concatenate([jnp.broadcast_to(cls, (x.shape[0], 1, self.width)), x], 1)
        x = x + self.param("pos", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        return nn.Dropout(self.dropout, name="drop")(x, deterministic=not train)


class Attention(nn.Module):
    """Multi-head self-attention: [batch, tokens, width] -> the same; the softmax is in float32."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        shape = (self.heads, width // self.heads)
        query, key, value = (Dense(shape, name=name)(x) for name in ("query", "key", "value"))
        return Dense((width,), inputs=2, name="out")(jax.nn.dot_product_attention(query, key, value))


class Mlp(nn.Module):
    """Two dense layers with an exact (erf) GELU between them: [..., width] -> the same."""

    width: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = nn.gelu(Dense((self.width,), name="fc1")(x), approximate=False)
        y = nn.Dropout(self.dropout, name="drop")(y, deterministic=not train)
        return Dense((x.shape[-1],), name="fc2")(y)


class Block(nn.Module):
    """`x + attn(norm_1(x))`, then `x + mlp(norm_2(x))`; in training each branch is dropped for some samples."""

    heads: int
    mlp_width: int
    epsilon: float
    dropout: float
    drop_rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = Attention(self.heads, name="attn")(layer_norm(self.epsilon, "norm_1")(x))
        x = x + self._drop(y, "1", train)
        y = Mlp(self.mlp_width, self.dropout, name="mlp")(layer_norm(self.epsilon, "norm_2")(x), train=train)
        return x + self._drop(y, "2", train)

    @nn.nowrap
    def _drop(self, y: jax.Array, branch: str, train: bool) -> jax.Array:
        y = nn.Dropout(self.dropout, name=f"drop_{branch}")(y, deterministic=not train)
        skip = nn.Dropout(self.drop_rate, broadcast_dims=(1, 2), name=f"skip_{branch}")
        return skip(y, deterministic=not train)


class Head(nn.Module):
    """The final norm, the class token or the mean of the normed tokens, and the output layer."""

    outputs: int
    pool: str
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        norm = layer_norm(self.epsilon, "norm")
        pooled = norm(x[:, 0]) if self.pool == "cls" else norm(x).mean(1)
        return Dense((self.outputs,), name="out")(pooled)


class ViT(Chain, kw_only=True):
    """The chain stem, block_0 ... block_{layers-1}, head; fields as the options of `port`."""

    outputs: int
    patch: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    pool: str
    dropout: float
    stochastic_depth: float
    epsilon: float

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        blocks = {
            f"block_{i}": functools.partial(Block, self.heads, self.mlp_width, self.epsilon, self.dropout, rate)
            for i, rate in enumerate(linear_rates(self.stochastic_depth, self.layers))
        }
        stem = functools.partial(Stem, self.patch, self.width, self.pool == "cls", self.dropout)
        return {"stem": stem, **blocks, "head": functools.partial(Head, self.outputs, self.pool, self.epsilon)}


def port(
    *,
    outputs: int,
    patch: int = 16,
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    mlp_width: int = 3072,
    pool: str = "cls",
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    epsilon: float = 1e-6,
    image: tuple[int, int, int] = (224, 224, 3),
    mean: tuple[float, ...] = (0.5,),
    std: tuple[float, ...] = (0.5,),
    interpolation: str = "bilinear",
) -> Port:
    """A vision transformer with learned position embeddings; the module's table has the published sizes.

    Args:
      outputs: outputs of the head.
      patch: side of the square patches, in pixels; must divide the image's height and width.
      width: channels of a token.
      layers: transformer blocks.
      heads: attention heads; must divide the width.
      mlp_width: hidden channels of the MLP.
      pool: `cls` (a class token is prepended) or `mean` (no class token; the mean of the normed patch tokens).
      dropout: rate after the position embeddings, the attention output, the GELU and the MLP.
      stochastic_depth: drop rate of the last block's branches, linear in depth (arXiv:1603.09382).
      epsilon: of every LayerNorm; checkpoints of Hugging Face transformers say 1e-12.
      image: (height, width, channels).
      mean: one for all channels or one each, of pixels in [0, 1].
      std: likewise.
      interpolation: `nearest`, `bilinear` or `bicubic`.

    Raises:
      InputError: an option has no such value, or two don't go together.
    """
    check_positive(outputs=outputs, patch=patch, width=width, layers=layers, heads=heads, mlp_width=mlp_width)
    check_choice("pool", pool, POOLS)
    check_rate(dropout=dropout, stochastic_depth=stochastic_depth)
    preprocessing = image_preprocessing(image, mean, std, interpolation)
    if width % heads:
        raise InputError(f"heads must divide the width, found width={width} and heads={heads}")
    if image[0] % patch or image[1] % patch:
        raise InputError(f"patch must divide the image's height and width, found patch={patch} and image={image}")
    if not epsilon > 0:
        raise InputError(f"epsilon must be positive, found {epsilon!r}")
    module = ViT(
        outputs=outputs,
        patch=patch,
        width=width,
        layers=layers,
        heads=heads,
        mlp_width=mlp_width,
        pool=pool,
        dropout=dropout,
        stochastic_depth=stochastic_depth,
        epsilon=epsilon,
    )
    return Port(
        module=module,
        units=tuple(module.units()),
        head="head/out",
        input_axes=((r"stem/patch/kernel", 3), (r".*/attn/out/kernel", 2), (r".*/kernel", 1)),
        preprocessing=preprocessing,
        no_decay=((r".*/(bias|scale|cls|pos)", 0.0), (".*", 1.0)),
    )

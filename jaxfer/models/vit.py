"""ViT: the vision transformer (Dosovitskiy et al., 2020, arXiv:2010.11929), and DeiT (arXiv:2012.12877).

| network  | width | layers | heads | mlp_width |
|----------|-------|--------|-------|-----------|
| ViT-Ti   | 192   | 12     | 3     | 768       |
| ViT-S    | 384   | 12     | 6     | 1536      |
| ViT-B    | 768   | 12     | 12    | 3072      |
| ViT-L    | 1024  | 24     | 16    | 4096      |
| ViT-H/14 | 1280  | 32     | 16    | 5120      |

DeiT has the sizes of ViT-Ti, S and B; the distilled ones take `distillation="head"`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.models import kernels
from jaxfer.models.attention import DotProductAttention
from jaxfer.models.chain import (
    Chain,
    check_choice,
    check_positive,
    check_rate,
    image_encoding,
    linear_rates,
)
from jaxfer.models.heads import DENSE, EMBEDDING, POOLED
from jaxfer.models.layers import BLOCK_TENSOR_AXES, Conv, Dense, DenseHead, kernel_init
from jaxfer.models.port import Port

HEADS = (POOLED, DENSE, EMBEDDING)
POOLS = ("cls", "mean", "cls+mean", "pooler")
NORMS = ("pre", "post")
MEAN = "mean"  # the part of the features that is the mean of the patches
DISTILLATIONS = ("none", "token", "head")


def layer_norm(epsilon: float, name: str) -> nn.LayerNorm:
    """Layer normalisation over the last axis; the two-pass variance is PyTorch's and does not cancel."""
    return nn.LayerNorm(epsilon, use_fast_variance=False, name=name)


class Stem(nn.Module):
    """Patches to tokens: [batch, h, w, c] -> [batch, tokens, width]; `special` tokens first, then patches by row."""

    patch: int
    width: int
    special: tuple[str, ...]
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        size = (self.patch, self.patch)
        x = Conv(self.width, size, self.patch, use_bias=True, kernel_init=kernel_init, name="patch")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        tokens = [self.param(name, nn.initializers.zeros, (1, 1, self.width)) for name in self.special]
        x = jnp.concatenate([*(jnp.broadcast_to(token, (x.shape[0], 1, self.width)) for token in tokens), x], 1)
        x = x + self.param("pos", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        return nn.Dropout(self.dropout, name="drop")(x, deterministic=not train)


class Attention(nn.Module):
    """Multi-head self-attention: [batch, tokens, width] -> the same; the softmax is in float32."""

    heads: int
    qkv_bias: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        shape = (self.heads, width // self.heads)
        query, key, value = (Dense(shape, use_bias=self.qkv_bias, name=name)(x) for name in ("query", "key", "value"))
        mixed = DotProductAttention(name="mix")(query, key, value)
        return Dense((width,), inputs=2, name="out")(mixed)


class Mlp(nn.Module):
    """Two dense layers with an exact (erf) GELU between them: [..., width] -> the same."""

    width: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = kernels.gelu(Dense((self.width,), name="fc1")(x))
        y = nn.Dropout(self.dropout, name="drop")(y, deterministic=not train)
        return Dense((x.shape[-1],), name="fc2")(y)


class Block(nn.Module):
    """`x + attn(norm_1(x))`, then `x + mlp(norm_2(x))`; in training each branch is dropped for some samples.

    With `norm="post"` each sum is normed instead: `norm_1(x + attn(x))`, then `norm_2(x + mlp(x))`.

    Attributes:
      carried: where the head reads the class tokens of several blocks: how many of x's first tokens are those of
        earlier ones, which pass unchanged. x's own class token is kept behind them. None: nothing is kept.
    """

    heads: int
    mlp_width: int
    epsilon: float
    dropout: float
    drop_rate: float
    norm: str
    qkv_bias: bool
    carried: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.carried is None:
            return self._block(x, train)
        return jnp.concatenate([x[:, : self.carried + 1], self._block(x[:, self.carried :], train)], 1)

    @nn.nowrap
    def _block(self, x: jax.Array, train: bool) -> jax.Array:
        def attn(x):
            return self._drop(Attention(self.heads, self.qkv_bias, name="attn")(x), "1", train)

        def mlp(x):
            return self._drop(Mlp(self.mlp_width, self.dropout, name="mlp")(x, train=train), "2", train)

        norm_1, norm_2 = (layer_norm(self.epsilon, name) for name in ("norm_1", "norm_2"))
        if self.norm == "post":
            x = norm_1(x + attn(x))
            return norm_2(x + mlp(x))
        x = x + attn(norm_1(x))
        return x + mlp(norm_2(x))

    @nn.nowrap
    def _drop(self, y: jax.Array, branch: str, train: bool) -> jax.Array:
        y = nn.Dropout(self.dropout, name=f"drop_{branch}")(y, deterministic=not train)
        skip = nn.Dropout(self.drop_rate, broadcast_dims=(1, 2), name=f"skip_{branch}")
        return skip(y, deterministic=not train)


class TwoOutputs(nn.Module):
    """The mean of two output layers, one for each token: [batch, 2, width] -> [batch, outputs]."""

    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return (Dense((self.outputs,), name="cls")(x[:, 0]) + Dense((self.outputs,), name="dist")(x[:, 1])) / 2


class Head(nn.Module):
    """The final norm (post-norm blocks have had theirs), the pool and the output layer; the features for 0 outputs.

    Attributes:
      last: how many class tokens come first: those of the last blocks, in their order.
    """

    outputs: int
    pool: str
    epsilon: float
    norm: str
    distillation: str
    last: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        norm = layer_norm(self.epsilon, "norm") if self.norm == "pre" else lambda x: x
        if self.distillation == "head" and self.outputs:
            return TwoOutputs(self.outputs, name="out")(norm(x[:, :2]))
        if self.pool == "cls+mean":
            x = norm(x)
            pooled = jnp.concatenate([x[:, : self.last].reshape(len(x), -1), x[:, self.last :].mean(1)], -1)
        elif self.last > 1:
            pooled = norm(x[:, : self.last]).reshape(len(x), -1)
        else:
            pooled = norm(x).mean(1) if self.pool == "mean" else norm(x[:, 0])
        if self.pool == "pooler":
            pooled = jnp.tanh(Dense(pooled.shape[-1:], name="pooler")(pooled))
        return Dense((self.outputs,), name="out")(pooled) if self.outputs else pooled


class PatchHead(DenseHead):
    """The final norm and the output layer at every patch: [batch, tokens, width] -> [batch, *size, outputs]."""

    grid: tuple[int, int] = (1, 1)
    epsilon: float = 1e-6
    norm: str = "pre"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = layer_norm(self.epsilon, "norm")(x) if self.norm == "pre" else x
        rows, columns = self.grid
        patches = x[:, -rows * columns :].reshape(len(x), rows, columns, -1)
        return super().__call__(patches, train=train)


class ViT(Chain, kw_only=True):
    """The chain stem, block_0 ... block_{layers-1}, head; fields as the options of `port`.

    Attributes:
      dense: (height, width) of a dense head's outputs; () for a pooled head.
    """

    outputs: int
    dense: tuple[int, ...]
    patch: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    pool: str
    last: int
    norm: str
    distillation: str
    qkv_bias: bool
    dropout: float
    stochastic_depth: float
    epsilon: float

    @nn.nowrap
    def special(self) -> tuple[str, ...]:
        """The learned tokens before the patches."""
        return () if self.pool == "mean" else ("cls",) if self.distillation == "none" else ("cls", "dist")

    @nn.nowrap
    def leading(self, unit: str) -> int:
        """The special tokens, after the class tokens of earlier blocks that a block passes on."""
        carried = self.carried().get(unit)
        return len(self.special()) + (0 if carried is None else carried + 1)

    @nn.nowrap
    def carried(self) -> dict[str, int]:
        """{block: how many class tokens of earlier blocks it reads}, for all but the first of the `last` blocks."""
        return {f"block_{i}": kept for kept, i in enumerate(range(self.layers - self.last + 1, self.layers))}

    @nn.nowrap
    def feature_parts(self) -> tuple[str, ...]:
        """Names of the parts of what a pooled head reads: the blocks whose class tokens they are, and `mean`."""
        if self.dense or self.pool not in ("cls", "cls+mean") or self.distillation == "head":
            return ()
        blocks = tuple(f"block_{i}" for i in range(self.layers - self.last, self.layers))
        return (*blocks, MEAN) if self.pool == "cls+mean" else blocks

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        shape, carried = (self.heads, self.mlp_width, self.epsilon, self.dropout), self.carried()
        blocks = {
            (name := f"block_{i}"): functools.partial(Block, *shape, rate, self.norm, self.qkv_bias, carried.get(name))
            for i, rate in enumerate(linear_rates(self.stochastic_depth, self.layers))
        }
        stem = functools.partial(Stem, self.patch, self.width, self.special(), self.dropout)
        head = functools.partial(Head, self.outputs, self.pool, self.epsilon, self.norm, self.distillation, self.last)
        if self.dense:
            grid = tuple(side // self.patch for side in self.dense)
            head = functools.partial(
                PatchHead, self.outputs, self.dense, grid=grid, epsilon=self.epsilon, norm=self.norm
            )
        return {"stem": stem, **blocks, "head": head}


def port(
    *,
    outputs: int,
    head: str = POOLED,
    patch: int = 16,
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    mlp_width: int = 3072,
    pool: str = "cls",
    last: int = 1,
    norm: str = "pre",
    distillation: str = "none",
    qkv_bias: bool = True,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    epsilon: float = 1e-6,
    image: tuple[int, int, int] = (224, 224, 3),
    mean: tuple[float, ...] = (0.5,),
    std: tuple[float, ...] = (0.5,),
    interpolation: str = "bilinear",
    resize: tuple[int, ...] = (),
) -> Port:
    """A vision transformer with learned position embeddings; the module's table has the published sizes.

    Args:
      outputs: outputs of the head.
      head: `pooled`, `embedding` for the features it pools, or `dense` for outputs at every pixel of the input, which
        reads the patches and pools nothing.
      patch: side of the square patches, in pixels; must divide the image's height and width.
      width: channels of a token.
      layers: transformer blocks.
      heads: attention heads; must divide the width.
      mlp_width: hidden channels of the MLP.
      pool: `cls` (a class token is prepended), `mean` (no class token; the mean of the normed patch tokens), `cls+mean`
        (both, one after the other, as DINOv2's classifiers have it) or `pooler` (the class token through a dense layer
        and tanh, as transformers' `ViTModel` has it).
      last: of how many of the last blocks the head reads the class token, each under the final norm: DINOv2's linear
        evaluation has 1 and 4 (Oquab et al., 2023, arXiv:2304.07193, app. B.3). Features are `last` class tokens in
        the order of the blocks; with `cls+mean` the mean of the last block follows.
      norm: `pre`: each branch is normed before it, and the last block after it; `post`: each sum is normed.
      distillation: DeiT's. `none`; `token`: a second learned token follows the class token; `head`: and the outputs are
        the mean of two output layers, one for each of these tokens.
      qkv_bias: whether query, key and value have biases.
      dropout: rate after the position embeddings, the attention output, the GELU and the MLP.
      stochastic_depth: drop rate of the last block's branches, linear in depth (arXiv:1603.09382).
      epsilon: of every LayerNorm; checkpoints of Hugging Face transformers say 1e-12.
      image: (height, width, channels).
      mean: one for all channels or one each, of pixels in [0, 1].
      std: likewise.
      interpolation: `nearest`, `bilinear`, `bicubic`, `lanczos`, `box` or `hamming`.
      resize: before the centre is cut out: () to the image's size, (shorter edge,) or (height, width).

    Raises:
      InputError: an option has no such value, or two don't go together.
    """
    check_positive(**({} if head == EMBEDDING else {"outputs": outputs}))
    check_positive(patch=patch, width=width, layers=layers, heads=heads, mlp_width=mlp_width)
    check_choice("pool", pool, POOLS)
    check_positive(last=last)
    check_choice("norm", norm, NORMS)
    check_choice("distillation", distillation, DISTILLATIONS)
    check_rate(dropout=dropout, stochastic_depth=stochastic_depth)
    encoding = image_encoding(image, mean, std, interpolation, resize)
    if width % heads:
        raise InputError(f"heads must divide the width, found width={width} and heads={heads}")
    if image[0] % patch or image[1] % patch:
        raise InputError(f"patch must divide the image's height and width, found patch={patch} and image={image}")
    if distillation != "none" and "mean" in pool or distillation == "head" and pool != "cls":
        raise InputError(f"distillation={distillation!r} needs pool='cls', found {pool!r}")
    _check_read(last, pool, layers, norm, distillation, head)
    if not epsilon > 0:
        raise InputError(f"epsilon must be positive, found {epsilon!r}")
    module = ViT(
        outputs=outputs,
        dense=image[:2] if head == DENSE else (),
        patch=patch,
        width=width,
        layers=layers,
        heads=heads,
        mlp_width=mlp_width,
        pool=pool,
        last=last,
        norm=norm,
        distillation=distillation,
        qkv_bias=qkv_bias,
        dropout=dropout,
        stochastic_depth=stochastic_depth,
        epsilon=epsilon,
    )
    return Port(
        module=module,
        units=tuple(module.units()),
        head="head/out",
        input_axes=((r"stem/patch/kernel", 3), (r".*/attn/out/kernel", 2), (r".*/kernel", 1)),
        encodings=(encoding,),
        no_decay=((r".*/(bias|scale|cls|dist|pos)", 0.0), (".*", 1.0)),
        tensor_axes=(
            *BLOCK_TENSOR_AXES,
            (".*", None),
        ),
        feature_parts=module.feature_parts(),
    )


def _check_read(last: int, pool: str, layers: int, norm: str, distillation: str, head: str) -> None:
    """`InputError` if the head can't read the tokens that `last` and `pool` say."""
    if last > layers:
        raise InputError(f"last must be at most the number of layers, found last={last} and layers={layers}")
    if last == 1 and pool != "cls+mean":
        return
    told = f"last={last}" if last > 1 else f"pool={pool!r}"
    if pool not in ("cls", "cls+mean"):
        raise InputError(f"{told} needs pool='cls' or 'cls+mean', found {pool!r}")
    if norm != "pre" or distillation != "none":
        raise InputError(
            f"{told} needs norm='pre' and distillation='none', found norm={norm!r} and distillation={distillation!r}"
        )
    if head == DENSE:
        raise InputError(f"{told} needs a head that pools, found head={head!r}, which reads the patches; omit it")

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

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.models.chain import linear_rates
from jaxfer.models.family import Family, family_port
from jaxfer.models.heads import DENSE, EMBEDDING, POOLED
from jaxfer.models.layers import BLOCK_TENSOR_AXES, Conv, Dense, DenseHead, kernel_init
from jaxfer.models.options import ImageOptions, choice, option, positive, rate, size
from jaxfer.models.port import Port
from jaxfer.models.transformer import Block, Spec, layer_norm

HEADS = (POOLED, DENSE, EMBEDDING)
MEAN = "mean"  # the part of the features that is the mean of the patches


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


@dataclass(frozen=True, kw_only=True)
class Options(ImageOptions):
    """The module's table has the published sizes.

    Attributes:
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
    """

    patch: int = size(16)
    width: int = size(768)
    layers: int = size(12)
    heads: int = size(12)
    mlp_width: int = size(3072)
    pool: str = choice("cls", ("cls", "mean", "cls+mean", "pooler"))
    last: int = size(1)
    norm: str = choice("pre", ("pre", "post"))
    distillation: str = choice("none", ("none", "token", "head"))
    qkv_bias: bool = option(True)
    dropout: float = rate(0.0)
    stochastic_depth: float = rate(0.0)
    epsilon: float = positive(1e-6)
    mean: tuple[float, ...] = option((0.5,), inputs=True)
    std: tuple[float, ...] = option((0.5,), inputs=True)

    def check(self) -> None:
        super().check()
        if self.width % self.heads:
            raise InputError(f"heads must divide the width, found width={self.width} and heads={self.heads}")
        if self.image[0] % self.patch or self.image[1] % self.patch:
            raise InputError(
                f"patch must divide the image's height and width, found patch={self.patch} and image={self.image}"
            )
        if self.distillation != "none" and "mean" in self.pool or self.distillation == "head" and self.pool != "cls":
            raise InputError(f"distillation={self.distillation!r} needs pool='cls', found {self.pool!r}")
        if self.last > self.layers:
            raise InputError(
                f"last must be at most the number of layers, found last={self.last} and layers={self.layers}"
            )
        if (told := self.read) is None:
            return
        if self.pool not in ("cls", "cls+mean"):
            raise InputError(f"{told} needs pool='cls' or 'cls+mean', found {self.pool!r}")
        if self.norm != "pre" or self.distillation != "none":
            raise InputError(
                f"{told} needs norm='pre' and distillation='none', found norm={self.norm!r} and "
                f"distillation={self.distillation!r}"
            )

    @property
    def read(self) -> str | None:
        """The option by which the head reads more than one token; None where it doesn't."""
        several = f"last={self.last}" if self.last > 1 else None
        return several or (f"pool={self.pool!r}" if self.pool == "cls+mean" else None)

    @property
    def special(self) -> tuple[str, ...]:
        """The learned tokens before the patches."""
        return () if self.pool == "mean" else ("cls",) if self.distillation == "none" else ("cls", "dist")

    @property
    def carried(self) -> dict[str, int]:
        """{block: how many class tokens of earlier blocks it reads}, for all but the first of the `last` blocks."""
        return {f"block_{i}": kept for kept, i in enumerate(range(self.layers - self.last + 1, self.layers))}


class ViT(Family):
    """The chain stem, block_0 ... block_{layers-1}, head."""

    @nn.nowrap
    def special(self) -> tuple[str, ...]:
        return self.options.special

    @nn.nowrap
    def leading(self, unit: str) -> int:
        """The special tokens, after the class tokens of earlier blocks that a block passes on."""
        carried = self.options.carried.get(unit)
        return len(self.special()) + (0 if carried is None else carried + 1)

    @nn.nowrap
    def feature_parts(self) -> tuple[str, ...]:
        """Names of the parts of what a pooled head reads: the blocks whose class tokens they are, and `mean`."""
        options = self.options
        if self.dense() or options.pool not in ("cls", "cls+mean") or options.distillation == "head":
            return ()
        blocks = tuple(f"block_{i}" for i in range(options.layers - options.last, options.layers))
        return (*blocks, MEAN) if options.pool == "cls+mean" else blocks

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        options = self.options
        spec = Spec(
            heads=options.heads,
            mlp_width=options.mlp_width,
            order=options.norm,
            epsilon=options.epsilon,
            qkv_bias=options.qkv_bias,
            dropout=options.dropout,
            mlp_dropout=options.dropout,
        )
        rates = linear_rates(options.stochastic_depth, options.layers)
        blocks = {
            (name := f"block_{i}"): functools.partial(
                Block, dataclasses.replace(spec, drop_rate=rate), options.carried.get(name)
            )
            for i, rate in enumerate(rates)
        }
        stem = functools.partial(Stem, options.patch, options.width, options.special, options.dropout)
        if self.dense():
            grid = tuple(side // options.patch for side in self.dense())
            sizes = dict(grid=grid, epsilon=options.epsilon, norm=options.norm)
            head = functools.partial(PatchHead, self.outputs, self.dense(), **sizes)
        else:
            read = (options.pool, options.epsilon, options.norm, options.distillation, options.last)
            head = functools.partial(Head, self.outputs, *read)
        return {"stem": stem, **blocks, "head": head}


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """A vision transformer with learned position embeddings.

    Args:
      options: the family's.
      outputs: outputs of the head.
      head: `pooled`, `embedding` for the features it pools, or `dense` for outputs at every pixel of the input, which
        reads the patches and pools nothing.

    Raises:
      InputError: a dense head where the options say which tokens are pooled.
    """
    if head == DENSE and options.read is not None:
        raise InputError(
            f"{options.read} needs a head that pools, found head={head!r}, which reads the patches; omit it"
        )
    port = family_port(
        ViT,
        options,
        outputs=outputs,
        head=head,
        input_axes=((r"stem/patch/kernel", 3), (r".*/attn/out/kernel", 2), (r".*/kernel", 1)),
        no_decay=((r".*/(bias|scale|cls|dist|pos)", 0.0), (".*", 1.0)),
        tensor_axes=(*BLOCK_TENSOR_AXES, (".*", None)),
    )
    return dataclasses.replace(port, feature_parts=port.module.feature_parts())


_SMALL = dict(patch=3, width=12, layers=2, heads=3, mlp_width=20, image=(6, 9, 3))
TINY = {
    "cls": _SMALL,
    "mean": {**_SMALL, "heads": 2, "pool": "mean"},
    "last": {**_SMALL, "layers": 3, "pool": "cls+mean", "last": 3},
    "distilled": {**_SMALL, "distillation": "token"},
    "post": {**_SMALL, "pool": "pooler", "norm": "post", "qkv_bias": False},
}

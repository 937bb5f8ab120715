"""Swin (Liu et al., 2021, arXiv:2103.14030), and with `v2` Swin V2 (Liu et al., 2022, arXiv:2111.09883).

| network | width | stage_sizes   | heads            |
|---------|-------|---------------|------------------|
| Tiny    | 96    | (2, 2, 6, 2)  | (3, 6, 12, 24)   |
| Small   | 96    | (2, 2, 18, 2) | (3, 6, 12, 24)   |
| Base    | 128   | (2, 2, 18, 2) | (4, 8, 16, 32)   |
| Large   | 192   | (2, 2, 18, 2) | (6, 12, 24, 48)  |

Windows of V1 are 7 at 224 pixels and 12 at 384; those of V2 are 8 or 16 at 256.
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
import numpy as np

from jaxfer.errors import InputError
from jaxfer.models.attention import DotProductAttention
from jaxfer.models.chain import linear_rates
from jaxfer.models.family import Family, family_port
from jaxfer.models.heads import DENSE, EMBEDDING, POOLED
from jaxfer.models.layers import BLOCK_TENSOR_AXES, Conv, Dense, kernel_init, like
from jaxfer.models.options import ImageOptions, option, positive, rate, size, sizes
from jaxfer.models.port import Port
from jaxfer.models.transformer import Mlp, Spec, layer_norm

HEADS = (POOLED, DENSE, EMBEDDING)
EPSILON = 1e-5  # of the norms of the stem and of patch merging, whatever the others have
APART = -100.0  # added to the scores of tokens that a shift alone brought together
POSITIONS = 512  # hidden channels of V2's MLP over positions
HOTTEST = math.log(100.0)  # of V2's learned scales
SHARPEST = 16.0  # V2's largest bias


class Stem(nn.Module):
    """Non-overlapping patches and their norm: [batch, h, w, c] -> [batch, h / patch, w / patch, width]."""

    width: int
    patch: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        sides = (self.patch, self.patch)
        x = Conv(self.width, sides, self.patch, use_bias=True, kernel_init=kernel_init, name="patch")(x)
        x = layer_norm(EPSILON, "norm")(x)
        return nn.Dropout(self.dropout, name="drop")(x, deterministic=not train)


class Merge(nn.Module):
    """Patch merging: [batch, h, w, c] -> [batch, ceil(h / 2), ceil(w / 2), 2 c]; odd sides get zeros at their end.

    V1 norms the 4 c channels of four places, V2 what the layer makes of them.
    """

    v2: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 4, 2, 5)
        x = x.reshape(batch, height // 2, width // 2, 4 * channels)
        norm, layer = layer_norm(EPSILON, "norm"), Dense((2 * channels,), use_bias=False, name="reduce")
        return norm(layer(x)) if self.v2 else layer(norm(x))


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, biased by the distance of two places: [windows, window^2, width].

    Attributes:
      heads: of attention.
      window: places of a side.
      qkv_bias: whether query, key and value have biases; V2's key has none.
      v2: cosines with a learned scale in place of products, and an MLP over log-spaced distances in place of a table
        (arXiv:2111.09883, sec. 3.2 and 3.3).
      reach: V2: the window whose corners are at distance 1, that of pre-training.
    """

    heads: int
    window: int
    qkv_bias: bool
    v2: bool
    reach: int

    @nn.compact
    def __call__(self, x: jax.Array, apart: np.ndarray | None) -> jax.Array:
        """`apart` [windows of an example, tokens, tokens]: which pairs of tokens don't see each other; None: all do."""
        width = x.shape[-1]
        query, key, value = (
            Dense(
                (self.heads, width // self.heads), use_bias=self.qkv_bias and not (self.v2 and name == "key"), name=name
            )(x)
            for name in ("query", "key", "value")
        )
        if self.v2:
            scale = self.param("scale", nn.initializers.constant(math.log(10.0)), (self.heads,))
            query = _unit(query, jnp.exp(jnp.minimum(scale, HOTTEST))[:, None])
            key = _unit(key, 1.0)
        tokens = self.window**2
        bias = self._table(x.dtype)[distances(self.window).reshape(-1)].reshape(1, tokens, tokens, self.heads)
        bias = bias.transpose(0, 3, 1, 2).astype(jnp.float32)
        if apart is not None:
            bias = bias + jnp.asarray(np.where(apart, np.float32(APART), np.float32(0)))[:, None]
            bias = jnp.tile(bias, (len(x) // len(apart), 1, 1, 1))
        mixed = DotProductAttention(name="mix")(query, key, value, bias=bias, scale=1.0 if self.v2 else 0.0)
        return Dense((width,), inputs=2, name="out")(mixed)

    @nn.nowrap
    def _table(self, dtype: Any) -> jax.Array:
        """The bias of each distance, [(2 window - 1)^2, heads]."""
        if not self.v2:
            return self.param("relative", nn.initializers.normal(0.02), ((2 * self.window - 1) ** 2, self.heads))
        near = jnp.asarray(places(self.window, self.reach), dtype)
        return SHARPEST * nn.sigmoid(Distances(self.heads, name="position")(near))


POSITION_TENSOR_AXES = (
    (r".*/position/fc1/kernel", 1),
    (r".*/position/fc1/bias", 0),
    (r".*/position/fc2/kernel", 0),
)


class Distances(nn.Module):
    """Two dense layers with a ReLU between them: [distances, 2] -> [distances, heads]."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return Dense((self.heads,), use_bias=False, name="fc2")(nn.relu(Dense((POSITIONS,), name="fc1")(x)))


class Block(nn.Module):
    """Attention in windows and the MLP, each a branch beside its input: [batch, h, w, c].

    Windows of every other block are shifted by half a window, around the edges of the map; a shifted window's tokens
    from opposite edges don't see each other. The map is padded with zeros, which attention does see, to whole windows,
    and an axis of no more than one window isn't shifted.

    Attributes:
      merge: whether a `Merge` comes before it, where a stage begins.
      shifted: whether its windows are.
      mlp_ratio: hidden channels of the MLP per channel.
      v2: norms come after the branches, not before them; see `WindowAttention`.
      epsilon: of its norms.
      dropout: rate at the end of each branch.
      drop_rate: probability that an example skips a branch in training.
    """

    merge: bool
    heads: int
    window: int
    shifted: bool
    mlp_ratio: float
    qkv_bias: bool
    v2: bool
    reach: int
    epsilon: float
    dropout: float
    drop_rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = Merge(self.v2, name="merge")(x) if self.merge else x
        spec = Spec(heads=self.heads, mlp_width=int(self.mlp_ratio * x.shape[-1]))
        attention = WindowAttention(self.heads, self.window, self.qkv_bias, self.v2, self.reach, name="attn")
        for i, branch in (("1", functools.partial(self._windowed, attention)), ("2", Mlp(spec, name="mlp"))):
            norm = layer_norm(self.epsilon, f"norm_{i}")
            y = branch(x if self.v2 else norm(x))
            y = nn.Dropout(self.dropout, name=f"drop_{i}")(y, deterministic=not train)
            y = norm(y) if self.v2 else y
            skip = nn.Dropout(self.drop_rate, broadcast_dims=(1, 2, 3), name=f"skip_{i}")
            x = x + skip(y, deterministic=not train)
        return x

    @nn.nowrap
    def _windowed(self, attention: WindowAttention, x: jax.Array) -> jax.Array:
        (batch, height, width, channels), side = x.shape, self.window
        x = jnp.pad(x, ((0, 0), (0, -height % side), (0, -width % side), (0, 0)))
        rows, columns = whole = x.shape[1:3]
        shift = tuple(side // 2 if self.shifted and axis > side else 0 for axis in whole)
        x = jnp.roll(x, tuple(-by for by in shift), (1, 2)) if any(shift) else x
        x = x.reshape(batch, rows // side, side, columns // side, side, channels).swapaxes(2, 3)
        x = attention(x.reshape(-1, side * side, channels), _apart(whole, side, shift) if any(shift) else None)
        x = x.reshape(batch, rows // side, columns // side, side, side, channels).swapaxes(2, 3)
        x = x.reshape(batch, rows, columns, channels)
        x = jnp.roll(x, shift, (1, 2)) if any(shift) else x
        return x[:, :height, :width]


class Head(nn.Module):
    """Norm, mean over both axes, output layer: [batch, h, w, c] -> [batch, outputs]; features for 0 outputs.

    With a `size` there is no mean: [batch, *size, outputs], enlarged as `DenseHead` does.
    """

    outputs: int
    epsilon: float
    size: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = layer_norm(self.epsilon, "norm")(x)
        x = x if self.size else x.mean((1, 2))
        y = Dense((self.outputs,), name="out")(x) if self.outputs else x
        return jax.image.resize(y, (len(y), *self.size, self.outputs), "bilinear") if self.size else y


def _unit(x: jax.Array, scale: jax.Array | float) -> jax.Array:
    """Vectors of the last axis at length 1, times the scale; 0 stays 0."""
    y = x.astype(jnp.float32)
    squares = jnp.square(y).sum(-1, keepdims=True)
    return like(y / jnp.sqrt(jnp.maximum(squares, 1e-24)) * scale, x)


def distances(window: int) -> np.ndarray:
    """The row of each pair of places, [window^2, window^2], in a table of (2 window - 1)^2 distances."""
    rows, columns = (axis.reshape(-1) for axis in np.indices((window, window)))
    down, right = (axis[:, None] - axis[None, :] + window - 1 for axis in (rows, columns))
    return down * (2 * window - 1) + right


def places(window: int, reach: int) -> np.ndarray:
    """The distances of such a table, float32 [(2 window - 1)^2, 2], by their logarithms (arXiv:2111.09883, eq. 4)."""
    one = np.arange(1 - window, window, dtype=np.float32) / max(reach - 1, 1) * 8
    one = np.sign(one) * np.log2(np.abs(one) + 1) / 3
    return np.stack(np.meshgrid(one, one, indexing="ij"), -1).reshape(-1, 2)


def _apart(size: tuple[int, int], window: int, shift: tuple[int, int]) -> np.ndarray:
    """Which tokens of a window come from opposite edges of the map, bool [windows, tokens, tokens]."""
    rows, columns = (np.arange(axis) >= axis - by for axis, by in zip(size, shift, strict=True))
    edge = 2 * rows[:, None] + columns[None, :]
    edge = edge.reshape(size[0] // window, window, size[1] // window, window).swapaxes(1, 2).reshape(-1, window**2)
    return edge[:, :, None] != edge[:, None, :]


@dataclass(frozen=True, kw_only=True)
class Options(ImageOptions):
    """The module's table has the published sizes.

    Attributes:
      stage_sizes: blocks of each stage; every stage after the first halves the map and doubles the width.
      width: channels of the first stage.
      heads: of attention in each stage.
      windows: places of a side of the windows in each stage.
      v2: whether it is Swin V2.
      reaches: V2: windows of pre-training in each stage, where others are used now; () if they are the same.
      patch: pixels of a side of the stem's patches; must divide the image's height and width.
      mlp_ratio: hidden channels of an MLP per channel of its block.
      qkv_bias: whether query, key (V1) and value have biases.
      epsilon: of the norms of blocks and head.
      dropout: rate after the stem and at the end of each branch.
      stochastic_depth: drop rate of the last block's branches, linear in depth from 0 in the first (arXiv:1603.09382).
    """

    interpolation: str = option("bicubic", inputs=True)
    stage_sizes: tuple[int, ...] = sizes((2, 2, 6, 2), of="stage")
    width: int = size(96)
    heads: tuple[int, ...] = sizes((3, 6, 12, 24), of="stage")
    windows: tuple[int, ...] = sizes((7, 7, 7, 7), of="stage")
    v2: bool = option(False)
    reaches: tuple[int, ...] = sizes((), of="stage", empty=True)
    patch: int = size(4)
    mlp_ratio: float = positive(4.0)
    qkv_bias: bool = option(True)
    epsilon: float = positive(1e-5)
    dropout: float = rate(0.0)
    stochastic_depth: float = rate(0.0)

    def check(self) -> None:
        super().check()
        stages = len(self.stage_sizes)
        for name in ("heads", "windows", *(("reaches",) if self.reaches else ())):
            if len(getattr(self, name)) != stages:
                raise InputError(f"{name} must have one for each of the {stages} stages, found {getattr(self, name)!r}")
        if self.reaches and not self.v2:
            raise InputError(f"reaches={self.reaches!r} needs v2=True: V1's windows are those of pre-training")
        for stage, heads in enumerate(self.heads):
            if self.width * 2**stage % heads:
                raise InputError(
                    f"heads must divide the width of their stage, found {heads} of {self.width * 2**stage} channels"
                )
        if self.image[0] % self.patch or self.image[1] % self.patch:
            raise InputError(
                f"patch must divide the image's height and width, found patch={self.patch} and image={self.image}"
            )

    @property
    def maps(self) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of the map in each stage."""
        grid = [(self.image[0] // self.patch, self.image[1] // self.patch)]
        for _ in self.stage_sizes[1:]:
            grid.append(tuple(-(-side // 2) for side in grid[-1]))
        return tuple(grid)


class Swin(Family):
    """The chain stem, block_0 ... block_{n-1} (counted over all stages), head."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}; patch merging is part of a stage's first block."""
        options = self.options
        units = {"stem": functools.partial(Stem, options.width, options.patch, options.dropout)}
        rates = iter((0.0, *linear_rates(options.stochastic_depth, sum(options.stage_sizes) - 1)))
        for stage, blocks in enumerate(options.stage_sizes):
            for i in range(blocks):
                units[f"block_{len(units) - 1}"] = functools.partial(
                    Block,
                    merge=bool(stage and not i),
                    heads=options.heads[stage],
                    window=options.windows[stage],
                    shifted=bool(i % 2),
                    mlp_ratio=options.mlp_ratio,
                    qkv_bias=options.qkv_bias,
                    v2=options.v2,
                    reach=(options.reaches or options.windows)[stage],
                    epsilon=options.epsilon,
                    dropout=options.dropout,
                    drop_rate=next(rates),
                )
        return {**units, "head": functools.partial(Head, self.outputs, options.epsilon, self.dense())}


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """A Swin with a head that is `pooled`, `dense` (outputs at every pixel) or `embedding` (the normed mean)."""
    return family_port(
        Swin,
        options,
        outputs=outputs,
        head=head,
        input_axes=((r"stem/patch/kernel", 3), (r".*/attn/out/kernel", 2), (r".*/kernel", 1)),
        no_decay=((r".*/(bias|scale|relative)", 0.0), (".*", 1.0)),
        tensor_axes=(*BLOCK_TENSOR_AXES, *(POSITION_TENSOR_AXES if options.v2 else ()), (".*", None)),
    )


_SMALL = dict(stage_sizes=(2, 1), width=6, heads=(2, 3), windows=(2, 2), patch=2, mlp_ratio=2.0, image=(10, 6, 3))
TINY = {"v1": _SMALL, "v2": {**_SMALL, "v2": True}}

"""BEiT (Bao et al., 2021, arXiv:2106.08254) and BEiT v2 (Peng et al., 2022, arXiv:2208.06366): one network.

| network | width | layers | heads | mlp_width | layer_scale_init |
|---------|-------|--------|-------|-----------|------------------|
| Base    | 768   | 12     | 12    | 3072      | 0.1              |
| Large   | 1024  | 24     | 16    | 4096      | 1e-5             |
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.errors import InputError
from jaxfer.models.heads import DENSE, EMBEDDING, POOLED
from jaxfer.models.layers import Conv, Dense, kernel_init
from jaxfer.models.options import choice, option, positive
from jaxfer.models.port import Port
from jaxfer.models.transformer import Block, Spec, layer_norm
from jaxfer.models.vision import PatchFamily, PatchOptions, patch_port

HEADS = (POOLED, DENSE, EMBEDDING)
OF_CLASS = 3  # distances of the class token: to a patch, from one, to itself


class Stem(nn.Module):
    """Patches to tokens after a class token, without positions: [batch, h, w, c] -> [batch, 1 + patches, width].

    Attributes:
      table: (distances, heads) of the biases that all blocks share; () where each has its own.
    """

    patch: int
    width: int
    dropout: float
    table: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        sides = (self.patch, self.patch)
        x = Conv(self.width, sides, self.patch, use_bias=True, kernel_init=kernel_init, name="patch")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        first = self.param("cls", nn.initializers.zeros, (1, 1, self.width))
        if self.table:
            self.param("relative", nn.initializers.zeros, self.table)  # lent to the blocks
        x = jnp.concatenate([jnp.broadcast_to(first, (x.shape[0], 1, self.width)), x], 1)
        return nn.Dropout(self.dropout, name="drop")(x, deterministic=not train)


class BiasedBlock(Block):
    """A block whose attention is biased by the distances of patches.

    Attributes:
      grid: (rows, columns) of patches.
      own: whether it has a table of biases; else another unit may lend it one as `relative`.
    """

    grid: tuple[int, int] = (1, 1)
    own: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, relative: jax.Array | None = None, train: bool, **side: Any) -> jax.Array:
        if self.own:
            relative = self.param("relative", nn.initializers.zeros, (distances(self.grid), self.spec.heads))
        if relative is not None:
            rows = between(self.grid)
            bias = relative[rows.reshape(-1)].reshape(1, *rows.shape, -1).astype(jnp.float32)
            side["bias"] = bias.transpose(0, 3, 1, 2)
        return super().__call__(x, train=train, **side)


class MeanHead(nn.Module):
    """Mean of the patches, norm, output layer: [batch, tokens, width] -> [batch, outputs]; features for 0 outputs."""

    outputs: int
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        pooled = layer_norm(self.epsilon, "norm")(x[:, 1:].mean(1))
        return Dense((self.outputs,), name="out")(pooled) if self.outputs else pooled


def distances(grid: tuple[int, int]) -> int:
    """How many distances there are in a grid of patches, those of the class token included."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + OF_CLASS


def between(grid: tuple[int, int]) -> np.ndarray:
    """The distance of each pair of tokens, the class token first: [1 + patches, 1 + patches]."""
    rows, columns = (axis.reshape(-1) for axis in np.indices(grid))
    down = rows[:, None] - rows[None, :] + grid[0] - 1
    right = columns[:, None] - columns[None, :] + grid[1] - 1
    found = np.pad(down * (2 * grid[1] - 1) + right, ((1, 0), (1, 0)))
    last = distances(grid)
    found[0, :], found[:, 0], found[0, 0] = last - 3, last - 2, last - 1
    return found


@dataclass(frozen=True, kw_only=True)
class Options(PatchOptions):
    """The module's table has the published sizes.

    Attributes:
      relative: biases of attention by the distance of two patches: `layer`, of each block; `shared`, of all of them;
        `none`.
      pool: `mean` of the patches, normed after it, or `cls`.
      layer_scale_init: of the learned scale of every branch.
      qkv_bias: whether query and value have biases; the key has none.
    """

    relative: str = choice("layer", ("layer", "shared", "none"))
    pool: str = choice("mean", ("mean", "cls"))
    layer_scale_init: float = positive(0.1, training=True)
    epsilon: float = positive(1e-12)
    interpolation: str = option("bicubic", inputs=True)
    mean: tuple[float, ...] = option((0.5,), inputs=True)
    std: tuple[float, ...] = option((0.5,), inputs=True)

    def check(self) -> None:
        super().check()
        if self.last > 1 and self.pool != "cls":
            raise InputError(f"last={self.last} needs pool='cls', found {self.pool!r}")


class Beit(PatchFamily):
    """The chain stem, block_0 ... block_{layers-1}, head."""

    @nn.nowrap
    def stem(self) -> Callable[..., nn.Module]:
        options = self.options
        table = (distances(options.grid), options.heads) if options.relative == "shared" else ()
        return functools.partial(Stem, options.patch, options.width, options.dropout, table)

    @nn.nowrap
    def spec(self) -> Spec:
        options = self.options
        biases = (options.qkv_bias, False, options.qkv_bias)
        scale = dict(layer_scale=True, layer_scale_init=options.layer_scale_init)
        return dataclasses.replace(super().spec(), qkv_bias=biases, mlp_dropout=None, **scale)

    @nn.nowrap
    def block(self, spec: Spec, carried: int | None) -> Callable[..., nn.Module]:
        own = self.options.relative == "layer"
        return functools.partial(BiasedBlock, spec, carried, grid=self.options.grid, own=own)

    @nn.nowrap
    def shared(self) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
        if self.options.relative != "shared":
            return {}
        return {f"block_{i}": {"relative": ("stem", "relative")} for i in range(self.options.layers)}

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        units = super().units()
        if self.options.pool == "mean" and not self.dense():
            units["head"] = functools.partial(MeanHead, self.outputs, self.options.epsilon)
        return units


def port(options: Options, *, outputs: int, head: str = POOLED) -> Port:
    """A vision transformer with layer scale, and with biases by distance in place of positions; see `patch_port`."""
    return patch_port(Beit, options, outputs=outputs, head=head)


_SMALL = dict(patch=3, width=12, layers=2, heads=3, mlp_width=20, image=(6, 9, 3))
TINY = {"layer": _SMALL, "shared": {**_SMALL, "relative": "shared", "pool": "cls"}}
